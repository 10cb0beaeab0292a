"""Tensors that a model lacks, under methods that sum whole models; models listed twice; values that overflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import events, merge
from tests.checkpoints import read_output, write_checkpoint, write_recipe

Tensors = dict[str, NDArray[Any]]
BODY, MTP = "model.layers.0.self_attn.q_proj.weight", "mtp.fc.weight"


def tensors(seed: int, *, mtp: bool = True, scale: float = 1.0) -> Tensors:
    """Make a tiny model, with or without the tensor that exports often lose."""
    random = np.random.default_rng(seed)
    found: Tensors = {BODY: (scale * random.standard_normal((8, 8))).astype(np.float32)}
    return found | ({MTP: (scale * random.standard_normal((4, 8))).astype(np.float32)} if mtp else {})


def merged(
    home: Path, models: dict[str, Tensors], weights: list[float], method: str = "linear", **changes: Any
) -> tuple[Tensors, list[str]]:
    """Merge models by weight; give the output and the warnings. A weight more than models repeats the first."""
    for name, found in models.items():
        if not (home / name).exists():
            write_checkpoint(home / name, found)
    listed = [*models, *list(models)[: len(weights) - len(models)]]
    content: dict[str, Any] = {
        "merge_method": method,
        "models": [
            {"model": str(home / name), "parameters": {"weight": weight}}
            for name, weight in zip(listed, weights, strict=True)
        ],
    }
    said: list[str] = []
    merge(
        write_recipe(home / "recipe.yml", **(content | changes)),
        home / "out",
        listen=lambda event: said.append(event.text) if isinstance(event, events.Notice) else None,
    )
    return read_output(home / "out"), said


SUM = {"parameters": {"normalize": False}}


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.3, 0.7], [1.0, 1.0]])
def test_the_only_copy_has_the_weight_of_all(tmp_path: Path, weights: list[float]) -> None:
    """What one of two models lacks is the other's, times the sum of the weights, and that is said."""
    a, b = tensors(1), tensors(2, mtp=False)
    out, said = merged(tmp_path, {"a": a, "b": b}, weights, **SUM)
    np.testing.assert_allclose(a[MTP] * sum(weights), out[MTP], rtol=1e-6)
    np.testing.assert_allclose(a[BODY] * weights[0] + b[BODY] * weights[1], out[BODY], rtol=1e-5, atol=1e-6)
    assert any("scaled to the sum of all models' weights" in text and MTP in text for text in said)


def test_two_of_three_share_the_weight_of_the_third(tmp_path: Path) -> None:
    """The weights of those that are left keep their ratio."""
    a, b, c = tensors(1), tensors(2), tensors(3, mtp=False)
    out, _ = merged(tmp_path, {"a": a, "b": b, "c": c}, [0.2, 0.6, 0.4], **SUM)
    np.testing.assert_allclose((a[MTP] * 0.2 + b[MTP] * 0.6) * (1.2 / 0.8), out[MTP], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", [[0.0, 1.0], [1.0, -1.0]])
def test_weights_that_have_no_such_sum(tmp_path: Path, weights: list[float]) -> None:
    """Where the copy that is left has no weight, or all weights cancel, it is taken as it is, and that is said."""
    a, b = tensors(1), tensors(2, mtp=False)
    out, said = merged(tmp_path, {"a": a, "b": b}, weights, **SUM)
    assert np.array_equal(a[MTP], out[MTP])
    assert any("not merged" in text and MTP in text for text in said)


def test_a_tensor_of_another_shape_is_not_halved_either(tmp_path: Path) -> None:
    """A model with a tensor of another shape counts as one that lacks it."""
    a, b = tensors(1), tensors(2) | {MTP: np.zeros((3, 3), np.float32)}
    out, _ = merged(tmp_path, {"a": a, "b": b}, [0.5, 0.5], **SUM)
    assert np.array_equal(a[MTP], out[MTP])


def test_lengths_of_multislerp(tmp_path: Path) -> None:
    """Of three models with weights of a third that are not divided, two of one direction have the length of all."""
    a, c = tensors(1), tensors(3, mtp=False)
    b = tensors(2) | {MTP: a[MTP]}
    changes = {"parameters": {"normalize_weights": False}}
    out, _ = merged(tmp_path, {"a": a, "b": b, "c": c}, [1 / 3] * 3, "multislerp", **changes)
    np.testing.assert_allclose(a[MTP], out[MTP], rtol=1e-5, atol=1e-6)


def test_a_task_vector_that_is_missing_changes_nothing(tmp_path: Path) -> None:
    """Changes of a base model are not scaled: what one model did not change, it did not change."""
    base, a, b = tensors(0), tensors(1), tensors(2, mtp=False)
    write_checkpoint(tmp_path / "base", base)
    out, said = merged(tmp_path, {"a": a, "b": b}, [0.5, 0.5], "task_arithmetic", base_model=str(tmp_path / "base"))
    np.testing.assert_allclose(base[MTP] + 0.5 * (a[MTP] - base[MTP]), out[MTP], rtol=1e-5, atol=1e-6)
    assert not any("scaled" in text for text in said)


def test_a_model_listed_twice_counts_twice(tmp_path: Path) -> None:
    """Both weights count, in sums of models as in sums of task vectors, and the base model may be given so too."""
    a, b = tensors(1), tensors(2)
    out, _ = merged(tmp_path, {"a": a, "b": b}, [1.0, 1.0, 2.0])
    np.testing.assert_allclose((3 * a[BODY] + b[BODY]) / 4, out[BODY], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["slerp", "nuslerp", "karcher", "linear", "multislerp"])
def test_a_model_merged_with_itself_is_itself(tmp_path: Path, method: str) -> None:
    """A mean of a model and itself is the model."""
    a = tensors(1)
    changes: dict[str, Any] = {}
    if method == "slerp":
        changes = {"base_model": str(tmp_path / "a"), "parameters": {"t": 0.3}}
    write_checkpoint(tmp_path / "a", a)
    weighted = {} if method in ("slerp", "karcher") else {"parameters": {"weight": 0.5}}
    entry = {"model": str(tmp_path / "a"), **weighted}
    recipe = write_recipe(tmp_path / "recipe.yml", merge_method=method, models=[entry, entry], **changes)
    merge(recipe, tmp_path / "out")
    np.testing.assert_allclose(a[BODY], read_output(tmp_path / "out")[BODY], rtol=1e-5, atol=1e-6)


def test_a_source_of_a_slice_listed_twice(tmp_path: Path) -> None:
    """Slices take the same layers of a model twice, each time with a weight."""
    a, b = tensors(1), tensors(2)
    for name, found in (("a", a), ("b", b)):
        write_checkpoint(tmp_path / name, found)
    sources = [
        {"model": str(tmp_path / name), "layer_range": [0, 1], "parameters": {"weight": weight}}
        for name, weight in (("a", 1), ("b", 2), ("a", 1))
    ]
    merge(write_recipe(tmp_path / "recipe.yml", merge_method="linear", slices=[{"sources": sources}]), tmp_path / "out")
    np.testing.assert_allclose((a[BODY] + b[BODY]) / 2, read_output(tmp_path / "out")[BODY], rtol=1e-5, atol=1e-6)


def test_values_that_overflow_are_said_of_which_tensors(tmp_path: Path) -> None:
    """Tensors are named with their counts, the most first: those that are merged, and those that are taken over."""
    big = {BODY: np.full((8, 8), 6e4, np.float32), MTP: np.full((4, 8), 1.0, np.float32), "n": np.ones(3, np.float32)}
    a = big | {"taken": np.array([1e5, 2.0], np.float32)}
    big[BODY][0, :3] = 1e5
    a[BODY] = big[BODY]
    write_checkpoint(tmp_path / "a", a)
    changes = {"base_model": str(tmp_path / "a"), "dtype": "float16"}
    _, said = merged(tmp_path, {"b": big}, [1.0], "task_arithmetic", **changes)
    assert ["4 values in 2 tensors too large for float32 or for the output dtype, and infinite or NaN now: "
            f"{BODY!r} (3), 'taken' (1)"] == [text for text in said if "too large" in text]  # fmt: skip
