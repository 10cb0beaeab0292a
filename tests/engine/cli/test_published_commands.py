"""Command lines that people have published for ``mergekit-yaml`` run with ``dovetail merge`` in its place."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import yaml
from safetensors import deserialize

from dovetail.engine import PlanOptions, merge
from dovetail.io.output import SafetensorsFormat
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import BF16, folder_bytes, llama_tensors, read_output, write_checkpoint
from tests.engine.command import dovetail

TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
CPU = "everything is computed on the CPU, within --memory"
UNLIKE = "models of other architectures are merged as far as they fit, with warnings"
CODE = "no code of a model is ever run"

WEIGHTS = {"merge_method": "linear", "dtype": "bfloat16", "models": [
    {"model": "math", "parameters": {"weight": 0.5}}, {"model": "code", "parameters": {"weight": 0.5}},
]}  # fmt: skip
ARC = {"merge_method": "slerp", "base_model": "math", "dtype": "bfloat16", "slices": [{"sources": [
    {"model": "math", "layer_range": [0, 2]}, {"model": "code", "layer_range": [0, 2]},
]}], "parameters": {"t": [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]}}  # fmt: skip
MASKS = {"merge_method": "dare_ties", "base_model": "base", "dtype": "bfloat16", "models": [
    {"model": name, "parameters": {"weight": 0.5, "density": 0.5}} for name in ("math", "code")
]}  # fmt: skip
ADAPTERS = {"merge_method": "linear", "dtype": "float16", "models": [
    {"model": "base+lora", "parameters": {"weight": 0.3}}, {"model": "base", "parameters": {"weight": 0.7}},
]}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A published command line, with other names and paths."""

    line: str
    """The line."""
    note: str = ""
    """What Dovetail says has no effect."""
    recipe: dict[str, Any] = field(default_factory=lambda: WEIGHTS)
    """A recipe such as it was published with."""
    options: PlanOptions = field(default_factory=PlanOptions)
    """What the line asks for, as options of Dovetail."""


LINES = (
    Published(  # LazyMergekit, a notebook, on a CPU; also in many model cards and tutorials
        "mergekit-yaml config.yaml merge --copy-tokenizer --allow-crimes --out-shard-size 1B --lazy-unpickle",
        f"--allow-crimes ({UNLIKE})",
        ARC,
        PlanOptions(SafetensorsFormat(10**9)),
    ),
    Published(  # the same notebook on a GPU, for models with code of their own
        "mergekit-yaml config.yaml merge --copy-tokenizer --cuda --low-cpu-memory --trust-remote-code",
        f"--cuda, --low-cpu-memory ({CPU}); --trust-remote-code ({CODE})",
        ARC,
    ),
    Published(  # mergekit's README, with all the flags that it names
        "mergekit-yaml config.yaml ./merge --cuda --lazy-unpickle --allow-crimes",
        f"--cuda ({CPU}); --allow-crimes ({UNLIKE})",
    ),
    Published(  # a script that merges a chat model, flags first
        "mergekit-yaml -v --write-model-card --random-seed 42 --trust-remote-code --copy-tokenizer --cuda "
        "--read-to-gpu config.yaml merge",
        f"--trust-remote-code ({CODE}); --cuda, --read-to-gpu ({CPU})",
        MASKS,
        PlanOptions(seed=42),
    ),
    Published(  # a question about adapters, among mergekit's issues
        "mergekit-yaml config.yaml ./merge --trust-remote-code --lora-merge-cache .",
        f"--trust-remote-code ({CODE})",
        ADAPTERS,
    ),
    Published(  # a batch file that copies tokenizers itself
        "mergekit-yaml config.yaml merge --allow-crimes --lazy-unpickle --no-copy-tokenizer",
        f"--allow-crimes ({UNLIKE})",
        options=PlanOptions(copy_tokenizer=False),
    ),
    Published(  # a tutorial that explains each flag
        "mergekit-yaml config.yaml merge --cuda --copy-tokenizer --out-shard-size 1B --lazy-unpickle "
        "--write-model-card --low-cpu-memory --random-seed 123 --trust-remote-code --safe-serialization",
        f"--cuda, --low-cpu-memory ({CPU}); --trust-remote-code ({CODE})",
        MASKS,
        PlanOptions(SafetensorsFormat(10**9), seed=123),
    ),
    Published(  # a script around every flag that mergekit then had, most of them at their defaults
        "mergekit-yaml config.yaml merge --lora-merge-cache '' --transformers-cache hub --cuda --no-low-cpu-memory "
        "--copy-tokenizer --no-allow-crimes --out-shard-size 5B -v --no-trust-remote-code --no-clone-tensors "
        "--no-lazy-unpickle",
        f"--cuda ({CPU})",
    ),
    Published(  # a program that merges on Windows
        "mergekit-yaml config.yaml merge --copy-tokenizer --allow-crimes --out-shard-size 1B --lazy-unpickle "
        "--device cpu",
        f"--allow-crimes ({UNLIKE})",
        options=PlanOptions(SafetensorsFormat(10**9)),
    ),
    Published(  # a benchmark of merging programs
        "mergekit-yaml config.yaml merge --device cpu --no-copy-tokenizer --no-write-model-card --out-shard-size 5B "
        "--random-seed 0 --num-threads 4 --quiet",
        options=PlanOptions(copy_tokenizer=False, model_card=False),
    ),
    Published(  # a script for a cluster
        "mergekit-yaml config.yaml merge --gpu-rich --verbose",
        f"--gpu-rich ({CPU})",
    ),
    Published(  # advice for machines with little memory, among mergekit's issues
        "mergekit-yaml config.yaml merge --allow-crimes --trust-remote-code --copy-tokenizer --out-shard-size 500M "
        "--clone-tensors -v",
        f"--allow-crimes ({UNLIKE}); --trust-remote-code ({CODE})",
        options=PlanOptions(SafetensorsFormat(5 * 10**8)),
    ),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a base model, two fine-tunes with tokenizers, and an adapter."""
    monkeypatch.chdir(tmp_path)
    base = llama_tensors(0)
    for seed, name in enumerate(("base", "math", "code")):
        write_checkpoint(tmp_path / name, llama_tensors(seed, base) if seed else base)
        for file in TOKENIZER:
            (tmp_path / name / file).write_text("{}")
        (tmp_path / name / "generation_config.json").write_text("{}")
    write_adapter(tmp_path / "lora", lora_tensors(1, base, ("model.layers.0.self_attn.q_proj",)))
    return tmp_path


@pytest.mark.parametrize("published", LINES, ids=lambda published: published.line)
def test_a_published_line_gives_what_it_asks_for(published: Published, home: Path) -> None:
    """The output has the bytes of the same merge asked for in our own words, and one note has the rest."""
    (home / "config.yaml").write_text(yaml.safe_dump(published.recipe))
    program, *arguments = shlex.split(published.line)
    outcome = dovetail("merge", *arguments)
    assert "mergekit-yaml" == program
    assert (0, f"No effect here: {published.note}.\n" if published.note else "") == (outcome.code, outcome.err)
    merge("config.yaml", "expected", published.options)
    assert folder_bytes(home / "expected") == folder_bytes(home / "merge")
    names = {path.name for path in (home / "merge").iterdir()}
    assert (TOKENIZER if published.options.copy_tokenizer else set()) == names & TOKENIZER
    assert published.options.model_card == ("README.md" in names)
    assert {"config.json", "generation_config.json", "model.safetensors", "dovetail_recipe.yml"} <= names


def test_the_values_of_a_published_line(home: Path) -> None:
    """The average of two models, in bfloat16, is that of their values in float32, rounded once."""
    (home / "config.yaml").write_text(yaml.safe_dump(WEIGHTS))
    assert 0 == dovetail("merge", *shlex.split(LINES[2].line)[1:]).code
    models = [read_output(home / name) for name in ("math", "code")]
    made = read_output(home / "merge")
    assert set(models[0]) == set(made)
    for name, tensor in made.items():
        first, second = (model[name].astype(np.float32) for model in models)
        assert BF16 == tensor.dtype
        np.testing.assert_array_equal((first * 0.5 + second * 0.5).astype(ml_dtypes.bfloat16), tensor)
    assert "llama" == json.loads((home / "merge" / "config.json").read_text())["model_type"]


SHARDS = {"20k": [3, 7, 8, 3], "10K": [1, 2, 2, 4, 4, 3, 5], "0": [21]}
"""How many tensors of the model of `small_llama` mergekit 0.1.5 puts into each file, by its ``--out-shard-size``. The
model has 28,832 elements in bfloat16: if 20k counted elements, there would be two files."""


def small_llama(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Make every tensor that transformers gives a Llama of two layers of width 32, with 128 tokens."""
    square, wide = (32, 32), (64, 32)
    layer = {f"self_attn.{name}_proj": square for name in "qkvo"} | {"mlp.gate_proj": wide, "mlp.up_proj": wide}
    layer |= {"mlp.down_proj": (32, 64), "input_layernorm": (32,), "post_attention_layernorm": (32,)}
    shapes = {f"model.layers.{number}.{name}": shape for number in range(2) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens": (128, 32), "lm_head": (128, 32), "model.norm": (32,)}
    random = np.random.default_rng(seed)
    return {f"{name}.weight": random.standard_normal(shape).astype(BF16) for name, shape in shapes.items()}


@pytest.mark.parametrize("size", SHARDS)
def test_shards_are_as_large_as_mergekits(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size with K, M or B counts bytes, as mergekit's code does whatever its help says, and 0 means a single file."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("math", "code")):
        write_checkpoint(tmp_path / name, small_llama(seed))
    Path("config.yaml").write_text(yaml.safe_dump(WEIGHTS))
    assert 0 == dovetail("merge", "config.yaml", "merge", "--out-shard-size", size).code
    files = sorted((tmp_path / "merge").glob("*.safetensors"))
    assert SHARDS[size] == [len(deserialize(file.read_bytes())) for file in files]
