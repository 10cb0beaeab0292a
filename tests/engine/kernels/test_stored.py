"""Packed parts are merged as numpy merges them, in one sweep or step by step, whatever run is asked for."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dovetail.engine.kernels.convert import BF16, F32
from dovetail.engine.kernels.stored import TILE, stored_sum

LENGTH = 2 * TILE + 640
RUNS = [(0, LENGTH), (64, LENGTH - 64), (TILE, 2 * TILE), (30, LENGTH - 5), (100, 120)]
WEIGHTS, SCALES, FACTOR = (np.float32(0.7), np.float32(-1.3)), (np.float32(1.0), np.float32(1.5)), np.float32(0.5)


class Parts:
    """A base model and what two models keep of it: weights that mostly do not change signs, in bfloat16."""

    def __init__(self) -> None:
        random = np.random.default_rng(5)
        self.base = random.standard_normal(LENGTH).astype(np.float32).astype(ml_dtypes.bfloat16)
        self.base[::100] = -0.0
        self.marks = [random.random(LENGTH) < density for density in (0.25, 0.6)]
        tuned = [self.base.astype(np.float32) + random.standard_normal(LENGTH).astype(np.float32) for _ in range(2)]
        self.tuned = [each.astype(ml_dtypes.bfloat16) for each in tuned]
        self.tuned[0][:3000:7] = self.base[:3000:7]  # changes of zero

    def merge(self, run: tuple[int, int], code: int) -> tuple[Any, int, Any]:
        """Merge a run by the kernel; give the stored bytes, how many are not finite, and the totals."""
        size = 2 if code == BF16 else 4
        out, totals = np.zeros((run[1] - run[0]) * size, np.uint8), (np.zeros(3, np.int64), np.zeros((2, 2), np.int64))
        values = [_frozen(each[mark]) for each, mark in zip(self.tuned, self.marks, strict=True)]
        words = tuple(_frozen(np.packbits(mark, bitorder="little")).view(np.uint64) for mark in self.marks)
        squares = np.zeros(3)
        count = stored_sum(
            (_frozen(self.base), *values),
            np.array([BF16, BF16, BF16, code], np.int64),
            words,
            (*run, 0),
            np.array([SCALES, WEIGHTS, WEIGHTS], np.float32),
            (False, False, np.float32(1), FACTOR),
            out,
            (*totals, squares),
        )
        return out, count, (*totals, squares)

    def expected(self, run: tuple[int, int]) -> tuple[Any, Any]:
        """Merge a run by numpy: float32, and the change."""
        part = slice(*run)
        base, delta = self.base[part].astype(np.float32), np.zeros(run[1] - run[0], np.float32)
        for tuned, mark, scale, weight in zip(self.tuned, self.marks, SCALES, WEIGHTS, strict=True):
            change = weight * (scale * (tuned[part].astype(np.float32) - base))
            delta = np.where(mark[part], delta + change, delta)
        delta = delta * FACTOR
        return np.where(delta == 0, base, base + delta), delta


def _frozen(array: Any) -> Any:
    """Give an array's bytes, read-only as mapped files are."""
    raw = array.view(np.uint8)
    raw.flags.writeable = False
    return raw


@pytest.mark.parametrize("run", RUNS)
def test_parts_are_merged_as_numpy_merges_them(run: tuple[int, int]) -> None:
    """Every bit of the result is numpy's; marks are counted, and squares of kept changes and of the change summed."""
    parts = Parts()
    expected, delta = parts.expected(run)
    out, overflowed, (nonfinite, pairs, squares) = parts.merge(run, BF16)
    assert expected.astype(ml_dtypes.bfloat16).tobytes() == out.tobytes()
    assert (0, [0, 0, 0]) == (overflowed, nonfinite.tolist())
    marks = np.array([mark[slice(*run)] for mark in parts.marks], np.int64)
    assert (marks @ marks.T).tolist() == pairs.tolist()
    assert pytest.approx(float((delta.astype(np.float64) ** 2).sum())) == squares[2]


@pytest.mark.parametrize("run", RUNS)
def test_the_sweep_and_the_steps_give_the_same(run: tuple[int, int]) -> None:
    """Output in float32 is made step by step: rounded, it is what the sweep gives, and all sums have the same bits."""
    parts = Parts()
    swept, _, totals = parts.merge(run, BF16)
    steps, _, others = parts.merge(run, F32)
    assert steps.view(np.float32).astype(ml_dtypes.bfloat16).tobytes() == swept.tobytes()
    assert [each.tolist() for each in others] == [each.tolist() for each in totals]


def test_what_is_not_finite_is_counted() -> None:
    """A NaN of the base model and an infinity that a model keeps: each is counted once, and so are the results."""
    parts = Parts()
    parts.base[5] = np.nan
    parts.marks[0][TILE + 3], parts.tuned[0][TILE + 3] = True, np.inf
    parts.marks[1][TILE + 3] = False
    _, overflowed, (nonfinite, _, _) = parts.merge((0, LENGTH), BF16)
    assert [1, 1, 0] == nonfinite.tolist()
    assert 2 == overflowed
