"""Comparing checkpoints: what differs, by how much, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dovetail.engine.actions.compare import compare
from dovetail.engine.actions.comparison import Difference, Limits
from dovetail.engine.actions.convert import convert
from dovetail.engine.errors import MemoryLimitError, RecipeError
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import MissingFileError
from tests import naive_compare
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.command import dovetail

BF16 = np.dtype(ml_dtypes.bfloat16)


def few_rows(seed: int, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make a tiny Llama of nine rows a matrix, or a fine-tune: the oracle takes its time."""
    return {name: values[:9] for name, values in llama_tensors(seed, base).items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, naive_compare.Difference]:
    """Compare the models of `pair` as the oracle does, which takes its time, tensor by tensor."""
    base, tuned = few_rows(0), few_rows(1, llama_tensors(0))
    tuned["model.layers.0.mlp.up_proj.weight"] = base["model.layers.0.mlp.up_proj.weight"]
    del base["lm_head.weight"]
    return {name: naive_compare.compare(values, tuned[name]) for name, values in base.items()}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Write a checkpoint and a fine-tune of it with one tensor less, one more, and one of another shape."""
    base, tuned = few_rows(0), few_rows(1, llama_tensors(0))
    base["ids"] = np.arange(-50, 50)
    tuned["model.layers.0.mlp.up_proj.weight"] = base["model.layers.0.mlp.up_proj.weight"]
    tuned["ids"] = base["ids"].copy()
    tuned["ids"][[0, 7]] += [3, -1]
    tuned["lm_head.weight"] = tuned["lm_head.weight"][:5]
    tuned["extra"] = np.ones(3, np.float32)
    base["missing"] = np.ones(3, np.float32)
    return write_checkpoint(tmp_path / "a", base, shards=2), write_checkpoint(tmp_path / "b", tuned)


def one(tmp_path: Path, first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare two tensors, each in a checkpoint of its own."""
    paths = [write_checkpoint(tmp_path / name, {"w": value}) for name, value in (("x", first), ("y", second))]
    (found,) = compare(str(paths[0]), str(paths[1])).differences
    return found


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("cut", [False, True])
def test_everything_that_differs_is_found(
    pair: tuple[Path, Path],
    expected: dict[str, naive_compare.Difference],
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    cut: bool,
) -> None:
    """Whatever the chunks and the workers, every tensor's figures are the oracle's; the rest is listed."""
    if cut:
        monkeypatch.setattr(grid, "CHUNK_STEP", 100)
        monkeypatch.setattr(grid, "TASK_BYTES", 1)
    found = compare(*map(str, pair), RunOptions(workers=workers))
    assert (("missing",), ("extra",)) == (found.only_first, found.only_second)
    assert (("lm_head.weight", "bfloat16 [9, 64]", "bfloat16 [5, 64]"),) == found.unlike
    floats = {each.name: each for each in found.differences if each.name != "ids"}
    assert expected.keys() == floats.keys()
    for name, each in floats.items():
        own = expected[name]
        assert (own.changed, own.unmatched, own.max_ulp) == (each.changed, each.unmatched, each.max_ulp)
        assert (float(own.max_abs), float(own.max_rel)) == (each.max_abs, each.max_rel)
        assert (name == "model.layers.0.mlp.up_proj.weight") == each.same_bits


def test_integers_are_exact(tmp_path: Path) -> None:
    """Distances are whole, over the whole range of 64 bits, and whatever the signs."""
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    found = one(tmp_path, np.array([low, 2**60, 5, -3]), np.array([high, 2**60 + 1, 5, -3]))
    assert (2, 2**64 - 1, float(2**64 - 1)) == (found.changed, found.max_ulp, found.max_abs)
    found = one(tmp_path, np.array([2**60, 10]), np.array([2**60 + 1, 10]))
    assert (1, 1, 1.0, 2.0**-60) == (found.changed, found.max_ulp, found.max_abs, found.max_rel)


def test_integers_of_two_dtypes(tmp_path: Path) -> None:
    """Integers of two dtypes are compared by value, even if neither dtype can hold the other's values."""
    found = one(tmp_path, np.array([-1, 7, 255], np.int32), np.array([255, 7, 255], np.uint8))
    assert (1, 256, False) == (found.changed, found.max_ulp, found.same_bits)
    found = one(tmp_path, np.array([2**64 - 1, 1], np.uint64), np.array([-1, 1], np.int64))
    assert (1, 2**64 - 1) == (found.changed, found.max_ulp)  # the true distance is one more than 64 bits hold
    found = one(tmp_path, np.array([True, False]), np.array([False, False]))
    assert (1, 1) == (found.changed, found.max_ulp)


def test_equal_in_value(tmp_path: Path) -> None:
    """Zeros of both signs are equal, and so are NaN of any payload, though they are not the same bits."""
    first = np.array([0.0, np.nan, np.inf], np.float32)
    second = np.array([-0.0, 0, np.inf], np.float32)
    second[1:2] = np.array([0xFF800001], np.uint32).view(np.float32)
    found = one(tmp_path, first, second)
    assert (0, 0, False) == (found.changed, found.unmatched, found.same_bits)
    assert 0 == dovetail("compare", tmp_path / "x", tmp_path / "y").code


def test_numbers_and_integers_cannot_be_compared(tmp_path: Path) -> None:
    """Floating-point and integer tensors of one name are unlike, and exceed any limit; empty tensors are equal."""
    a = write_checkpoint(tmp_path / "a", {"w": np.zeros(3, np.float32), "e": np.zeros((0, 4), np.float32)})
    b = write_checkpoint(tmp_path / "b", {"w": np.zeros(3, np.int32), "e": np.zeros((0, 4), np.float32)})
    found = compare(str(a), str(b))
    assert (("w", "float32 [3]", "int32 [3]"),) == found.unlike
    assert ("w",) == found.beyond(Limits(max_abs=1e9))
    assert ["e"] == [each.name for each in found.differences]


@pytest.mark.parametrize(
    ("limits", "beyond"),
    [
        (Limits(), True),
        (Limits(max_ulp=3), False),
        (Limits(max_ulp=2), True),
        (Limits(max_abs=0.5), False),
        (Limits(max_abs=0.49), True),
        (Limits(max_rel=0.1), False),
        (Limits(max_rel=0.1, max_ulp=2), True),
    ],
)
def test_limits(limits: Limits, beyond: bool) -> None:
    """Each limit bounds its own figure, inclusively, and all limits that are given must hold."""
    found = Difference("w", ("F32", "F32"), 10, changed=1, max_abs=0.5, max_rel=0.1, max_ulp=3)
    assert beyond == limits.exceeded_by(found)


@pytest.mark.parametrize("limits", [{"max_abs": float("nan")}, {"max_rel": -0.1}, {"max_ulp": -1}])
def test_limits_that_are_none(limits: dict[str, Any]) -> None:
    """Limits that nothing or everything would exceed, such as NaN and negative numbers, are refused."""
    with pytest.raises(RecipeError, match="expected a number that is not negative"):
        Limits(**limits)


def test_another_dtype_is_a_difference_unless_limits_are_given() -> None:
    """Without limits another dtype is a difference; a value that is finite in one tensor only exceeds any limit."""
    found = Difference("w", ("F32", "BF16"), 10)
    assert Limits().exceeded_by(found)
    assert not Limits(max_ulp=0).exceeded_by(found)
    found.changed = found.unmatched = 1
    assert Limits(max_ulp=10**9, max_abs=1e300, max_rel=9.0).exceeded_by(found)


def test_a_conversion_is_within_no_units(tmp_path: Path) -> None:
    """A script checks a conversion by --max-ulp 0; the dtype alone makes it differ without limits."""
    source = write_checkpoint(tmp_path / "a", llama_tensors(0, dtype=np.dtype(np.float32)))
    convert(source, tmp_path / "b", PlanOptions(dtype="bfloat16"))
    assert 0 == dovetail("compare", source, tmp_path / "b", "--max-ulp", "0").code
    outcome = dovetail("compare", source, tmp_path / "b")
    assert 6 == outcome.code
    assert "; expected no difference\n" in outcome.err


def test_the_table(pair: tuple[Path, Path]) -> None:
    """The table lists as many tensors as asked for, the farthest apart first; --all lists equal ones too."""
    outcome = dovetail("compare", *pair, "--top", "2")
    lines = outcome.out.splitlines()
    assert lines[0].split()[:2] == ["Tensor", "dtype"]
    assert lines[1].startswith("ids ")
    assert lines[3] == "... and 6 more tensors: --all lists every one"
    assert "only in the first: 1 tensor: missing" in lines
    assert "only in the second: 1 tensor: extra" in lines
    assert "cannot be compared: 1 tensor: lm_head.weight (bfloat16 [9, 64] and bfloat16 [5, 64])" in lines
    assert "1 the same bit for bit, 8 with" in lines[-1]
    assert "model.layers.0.mlp.up_proj.weight" not in outcome.out
    assert "model.layers.0.mlp.up_proj.weight" in dovetail("compare", *pair, "--all").out
    assert "" == dovetail("compare", *pair, "--quiet").out
    assert (0, "") == (dovetail("compare", pair[0], pair[0]).code, dovetail("compare", pair[0], pair[0]).err)


def test_as_json(pair: tuple[Path, Path]) -> None:
    """With --json, progress, every figure of every tensor and the verdict are printed."""
    outcome = dovetail("compare", *pair, "--json", "--max-abs", "100")
    comparison = next(event for event in outcome.events if event["event"] == "comparison")
    assert {"missing", "extra", "lm_head.weight"} == set(comparison["beyond"])
    assert {"max_abs": 100, "max_rel": None, "max_ulp": None} == comparison["limits"]
    (ids,) = [event for event in outcome.events if event["event"] == "difference" and event["name"] == "ids"]
    assert (2, 3, 0.02) == (ids["changed"], ids["max_ulp"], ids["changed_fraction"])
    assert outcome.events[0]["event"] == "progress"
    assert 6 == outcome.events[-1]["exit_code"]
    assert json.dumps(comparison)


def test_what_is_not_there(tmp_path: Path) -> None:
    """A missing checkpoint is named, with exit code 3; a limit too small for one task has exit code 4."""
    a = write_checkpoint(tmp_path / "a", llama_tensors(0))
    with pytest.raises(MissingFileError, match=r"there is no checkpoint at .*/b; "):
        compare(str(a), str(tmp_path / "b"))
    with pytest.raises(MemoryLimitError):
        compare(str(a), str(a), RunOptions(memory_bytes=50 << 20))
