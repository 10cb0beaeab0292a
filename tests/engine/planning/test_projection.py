"""The memory that a plan projects counts what reading takes, whatever stands between an input and its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dovetail.engine import plan
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES
from dovetail.io import read_checkpoint
from dovetail.io.formats import torch_catalogue, torch_reader
from dovetail.io.source import Source
from dovetail.io.sources.gathered import GatheredSource
from dovetail.io.sources.parts import ElementRun
from dovetail.io.sources.rows import FilledElements
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import write_checkpoint, write_recipe
from tests.engine.planning.vocabulary.samples import word_level
from tests.io.zarr_files import write_arrays
from tests.naive_dequantise import stored, write_raw

EMBED, ROWS, WIDTH = "model.embed_tokens.weight", 500, 512


def matrix(rows: int) -> np.ndarray:
    """Make an embedding."""
    return np.random.default_rng(rows).standard_normal((rows, WIDTH)).astype(np.float32)


def write_zarr(folder: Path, rows: int) -> Path:
    """Write a model in Zarr, in one chunk."""
    folder.mkdir()
    write_arrays(folder, {EMBED: matrix(rows)}, chunks=lambda shape: shape)
    return folder


def write_plain(folder: Path, rows: int) -> Path:
    """Write a model in safetensors."""
    return write_checkpoint(folder, {EMBED: matrix(rows)})


def write_transposed(folder: Path, rows: int) -> Path:
    """Write a model in a PyTorch file, column by column."""
    folder.mkdir()
    torch.save({EMBED: torch.from_numpy(matrix(rows)).T.contiguous().T}, folder / "pytorch_model.bin")
    return folder


def write_words(folder: Path, count: int) -> None:
    """Give a model the first words of a vocabulary, in an order of its own."""
    words = ["?", *(f"w{number}" for number in range(count - 1))]
    if count % 2:
        words[1:] = words[:0:-1]
    (folder / "tokenizer.json").write_text(word_level(words))
    (folder / "config.json").write_text(f'{{"model_type": "llama", "vocab_size": {count}}}')


WRITERS = {"chunks": write_zarr, "transposed": write_transposed}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch look at files in this process, where it is loaded already."""
    monkeypatch.setattr(torch_reader, "list_tensors", lambda paths: [torch_catalogue.catalogue(p) for p in paths])


@pytest.mark.parametrize("kept", WRITERS)
@pytest.mark.parametrize(
    ("rows", "adapter", "union", "kind"),
    [
        (ROWS, False, False, None),
        (ROWS + 40, False, False, ElementRun),
        (ROWS - 40, False, False, FilledElements),
        (ROWS - 39, False, True, GatheredSource),
        (ROWS, True, False, None),
        (ROWS + 40, True, False, ElementRun),
        (ROWS - 39, True, True, GatheredSource),
    ],
    ids=["bare", "leading", "filled", "gathered", "adapter", "adapter, leading", "adapter, gathered"],
)
def test_scratch_of_reading_is_projected(
    tmp_path: Path, kept: str, rows: int, adapter: bool, union: bool, kind: type[Source] | None
) -> None:
    """A task is projected to take what reading its input takes, however the plan wraps it."""
    write: Callable[[Path, int], Path] = WRITERS[kept]
    base, tuned = write_checkpoint(tmp_path / "base", {EMBED: matrix(ROWS)}), write(tmp_path / "tuned", rows)
    bare = read_checkpoint(tuned).tensors[EMBED].source
    model = str(tuned)
    if adapter:
        tensors = lora_tensors(0, {EMBED: matrix(rows)}, [EMBED.removesuffix(".weight")])
        model += f"+{write_adapter(tmp_path / 'adapter', tensors)}"
    if union:
        write_words(base, ROWS)
        write_words(tuned, rows)
    content = {"merge_method": "linear", "base_model": str(base), "dtype": "float32"}
    models = [{"model": str(base), "parameters": {"weight": 1}}, {"model": model, "parameters": {"weight": 1}}]
    extra = {"tokenizer_source": "union"} if union else {}
    made = plan(write_recipe(tmp_path / "recipe.yml", **content, models=models, **extra))
    (tensor,) = made.tensors
    source = tensor.models[-1].source
    assert kind is None or isinstance(source, kind)
    least = bare.scratch_bytes
    assert least > 2**19
    assert source.scratch_bytes >= least
    assert tensor.scratch_bytes(0, tensor.length) >= least
    assert made.task_bytes >= tensor.held_bytes(0, tensor.length) + least


def test_decoded_chunks_are_held_once(tmp_path: Path) -> None:
    """Elements that are decoded from Zarr are projected once, and those that are copied from a mapped file twice."""
    models = [write(tmp_path / name, ROWS) for name, write in (("chunks", write_zarr), ("plain", write_plain))]
    # Three bytes come first, so that no element of the matrix is aligned.
    odd = write_raw(tmp_path / "odd", {"a": stored(np.zeros(3, np.uint8)), EMBED: stored(matrix(ROWS))})
    held = []
    for model in (*models, odd):
        content = {"merge_method": "passthrough", "models": [{"model": str(model)}], "dtype": "bfloat16"}
        tensor = next(each for each in plan(write_recipe(tmp_path / "r.yml", **content)).tensors if each.name == EMBED)
        assert (model != models[1]) == tensor.inputs[0].source.copies
        held.append(tensor.held_bytes(0, tensor.length) - 2 * tensor.length)
    size = ROWS * WIDTH * 4
    assert [size, size, 2 * size] == held


def test_tensors_that_are_alike_need_the_same(tmp_path: Path) -> None:
    """The memory of a task is that of its pieces, each computed by itself, whatever shapes and alignments they have."""
    random = np.random.default_rng(0)
    shapes = [(8, 64), (8, 64), (64, 8), (3, 5), (8, 64), (1,), (300, 300)]
    tensors = {f"t{i}": stored(random.standard_normal(shape).astype(np.float32)) for i, shape in enumerate(shapes)}
    aligned = write_raw(tmp_path / "aligned", tensors)
    odd = write_raw(tmp_path / "odd", {"a": stored(np.zeros(3, np.uint8)), **tensors})
    models = [{"model": str(folder), "parameters": {"weight": 1}} for folder in (aligned, odd)]
    made = plan(write_recipe(tmp_path / "r.yml", merge_method="linear", models=models, dtype="bfloat16"))
    most = 0
    for task in (task for job in made.jobs for task in job.tasks):
        pieces = [(made.tensors[piece.tensor], piece.start, piece.stop) for piece in task]
        held = sum(tensor.held_bytes(start, stop) for tensor, start, stop in pieces)
        scratch = max(tensor.scratch_bytes(start, stop) for tensor, start, stop in pieces)
        most = max(most, held + scratch + PAGE_SLACK_BYTES * 2)
    assert most == made.task_bytes
