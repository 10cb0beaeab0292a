"""Tensors that a model uses in several places, stored once by some checkpoints and under all names by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import events, merge
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.shared import find_shared
from dovetail.engine.recipe.tied import Heads
from tests.checkpoints import read_output, write_checkpoint, write_recipe

Tensors = dict[str, NDArray[Any]]

EMBEDDING, COPIES = "shared.weight", ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
BIAS, BIAS_COPY = "cls.predictions.bias", "cls.predictions.decoder.bias"
BLOCK, BLOCK_COPY = "model.layers.1.block.w.weight", "model.layers.3.block.w.weight"


def model(seed: int, *, every: bool, layers: int = 4) -> Tensors:
    """Make a model with tensors shared as in T5, BERT and Zamba, stored under every name or each once."""
    random = np.random.default_rng(seed)
    shapes = {EMBEDDING: (9, 4), BIAS: (9,), BLOCK: (5, 4), "final_norm.weight": (4,)}
    shapes |= {f"model.layers.{i}.norm.weight": (4,) for i in range(layers)}
    made = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if every:
        made |= {name: made[EMBEDDING].copy() for name in COPIES}
        made |= {BIAS_COPY: made[BIAS].copy(), BLOCK_COPY: made[BLOCK].copy()}
    return made


def merged(home: Path, found: dict[str, Tensors], **content: Any) -> tuple[Tensors, list[str]]:
    """Write the models and merge all of them, or those of the recipe; give the output and the warnings."""
    for name, tensors in found.items():
        write_checkpoint(home / name, tensors, config={"tie_word_embeddings": True, "num_hidden_layers": 4})
    models = [{"model": str(home / name), "parameters": {"weight": 0.5}} for name in found]
    said: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice) and event.level == "warning":
            said.append(event.text)

    recipe = write_recipe(home / "recipe.yml", **{"merge_method": "linear", "models": models, **content})
    merge(recipe, home / "out", listen=listen)
    return read_output(home / "out"), said


def test_copies_stay_copies(tmp_path: Path) -> None:
    """Where the other model stores each shared tensor once, it counts for every place in which the base stores it."""
    a, b = model(0, every=True), model(1, every=False)
    out, said = merged(tmp_path, {"a": a, "b": b})
    assert sorted(a) == sorted(out)
    for name, tensor in b.items():
        assert np.allclose((a[name] + tensor) / 2, out[name], rtol=1e-6)
    for name, original in ((COPIES[0], EMBEDDING), (COPIES[1], EMBEDDING), (BIAS_COPY, BIAS), (BLOCK_COPY, BLOCK)):
        assert np.array_equal(out[original], out[name]), name
    assert ["4 tensors that"] == [text[:14] for text in said]


@pytest.mark.parametrize("method", ["dare_linear", "della"])
def test_random_masks_are_those_of_the_original(tmp_path: Path, method: str) -> None:
    """Copies have the masks of what they copy, and parameters given by its name, so that they do not part."""
    found = {"a": model(0, every=True), "b": model(1, every=False), "c": model(2, every=True)}
    weights = [{"filter": "embed_tokens", "value": 0.1}, {"value": 0.7}]
    models = [{"model": str(tmp_path / name), "parameters": {"weight": weights}} for name in "bc"]
    content = {"merge_method": method, "base_model": str(tmp_path / "a"), "models": models}
    out, _ = merged(tmp_path, found, **content, parameters={"density": 0.5})
    for name, original in ((COPIES[0], EMBEDDING), (COPIES[1], EMBEDDING), (BLOCK_COPY, BLOCK)):
        assert np.array_equal(out[original], out[name]), name
    assert not np.array_equal(found["a"][EMBEDDING], out[EMBEDDING])


def test_what_was_trained_apart_is_no_copy(tmp_path: Path) -> None:
    """A tensor that differs from the other in its last element is merged from the models that have it."""
    a, b = model(0, every=True), model(1, every=False)
    a[BLOCK_COPY][-1, -1] += 1
    out, said = merged(tmp_path, {"a": a, "b": b})
    assert np.array_equal(a[BLOCK_COPY], out[BLOCK_COPY])
    assert any("missing in" in text and BLOCK_COPY in text for text in said)


def test_tensors_that_are_alike_by_chance(tmp_path: Path) -> None:
    """Norms that are all ones are no copies of one another, and copied layers no copies for a shorter model."""
    a, b = model(0, every=False), model(1, every=False, layers=3)
    for i in range(4):
        a[f"model.layers.{i}.norm.weight"] = np.ones(4, np.float32)
    a["model.layers.3.w.weight"] = a["model.layers.2.w.weight"] = np.arange(20, dtype=np.float32).reshape(5, 4)
    b["model.layers.2.w.weight"] = np.zeros((5, 4), np.float32)
    del b["model.layers.1.norm.weight"]
    out, _ = merged(tmp_path, {"a": a, "b": b})
    for name in ("model.layers.1.norm.weight", "model.layers.3.norm.weight", "model.layers.3.w.weight"):
        assert np.array_equal(a[name], out[name]), name


def test_few_tensors_are_compared() -> None:
    """Experts that a model lacks are not compared with all others, as one that stores its tensors once has them."""
    names = [f"model.layers.{layer}.experts.{expert}.up.weight" for layer in range(6) for expert in range(8)]
    every = dict.fromkeys(names, (4, 4))
    few = {name: shape for name, shape in every.items() if ".experts.7." not in name}
    asked: list[tuple[str, str]] = []

    def is_copy(ref: ModelRef, one: str, other: str) -> bool:
        asked.append((one, other))
        return False

    catalogues = {ModelRef(path="a"): every, ModelRef(path="b"): few}
    assert {} == find_shared(catalogues, Heads(catalogues), is_copy).stand_ins
    assert [] == asked


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        ("backbone.embeddings.weight", "lm_head.weight"),  # Mamba
        ("model.embeddings.tok_embeddings.weight", "decoder.weight"),  # ModernBERT
        ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
        ("rwkv.embeddings.weight", "head.weight"),
        ("transformer.w.weight", "lm_head.weight"),  # CTRL
        ("electra.embeddings.word_embeddings.weight", "generator_lm_head.weight"),
        ("transformer.embeddings.weight", "pred_layer.proj.weight"),  # XLM
    ],
)
def test_heads_by_other_names(tmp_path: Path, embedding: str, head: str) -> None:
    """A tied model's embedding stands in for the head that the other model has, whatever the two are called."""
    random = np.random.default_rng(0)
    tied, untied = ({embedding: random.standard_normal((9, 4)).astype(np.float32)} for _ in range(2))
    untied[head] = random.standard_normal((9, 4)).astype(np.float32)
    for name, tensors, flag in (("tied", tied, True), ("untied", untied, False)):
        tensors["layers.0.w"] = random.standard_normal((6, 4)).astype(np.float32)
        write_checkpoint(tmp_path / name, tensors, config={"tie_word_embeddings": flag})
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ("tied", "untied")]
    merge(write_recipe(tmp_path / "recipe.yml", merge_method="linear", models=models), tmp_path / "out")
    out = read_output(tmp_path / "out")
    assert np.allclose((tied[embedding] + untied[head]) / 2, out[head], rtol=1e-6)
    assert False is json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_no_head_is_made_up_for_another_part(tmp_path: Path) -> None:
    """The head of a talker, or of a second copy of the model, is no head of a model without that part."""
    random = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (9, 4), "model.layers.0.w": (30, 4), "lm_head.weight": (9, 4)}
    further = {"talker.model.embed_tokens.weight": (9, 4), "talker.lm_head.weight": (9, 4)}
    a, b = ({n: random.standard_normal(s).astype(np.float32) for n, s in each.items()} for each in (shapes, shapes))
    b |= {n: random.standard_normal(s).astype(np.float32) for n, s in further.items()}
    for name, tensors in (("a", a), ("b", b)):
        write_checkpoint(tmp_path / name, tensors)
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in "ab"]
    merge(write_recipe(tmp_path / "recipe.yml", merge_method="linear", models=models), tmp_path / "out")
    out = read_output(tmp_path / "out")
    assert sorted(a) == sorted(out)
    for name in a:
        assert np.allclose((a[name] + b[name]) / 2, out[name], rtol=1e-6), name
