"""Counts and marks of a tile."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.kernels.statistics import count_common, count_nonfinite, count_pairs, mark_nonzero
from tests.engine.kernels.cases import examples


def test_nonfinite_values_are_counted() -> None:
    """NaN of any payload and both infinities count, the greatest float32 does not."""
    values = np.array([np.nan, np.inf, -np.inf, np.finfo(np.float32).max, 0.0, -1.0] * 11, np.float32)
    values[0] = np.uint32(0xFF800001).view(np.float32)
    assert 33 == count_nonfinite(values)
    assert 0 == count_nonfinite(values[:0])


def test_zeros_of_both_signs_are_not_marked() -> None:
    """Zeros of both signs are not marked; every other value is, the least subnormal and NaN included."""
    mask = np.full(5, 7, np.uint8)
    mark_nonzero(np.array([0.0, -0.0, 1e-45, np.nan, -2.0], np.float32), mask)
    assert [0, 0, 1, 1, 1] == mask.tolist()


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(seed=st.integers(0, 2**32 - 1), models=st.integers(1, 4), count=st.integers(0, 100))
def test_pairs_are_added(seed: int, models: int, count: int) -> None:
    """Numbers of common marks are added to the counts; elements beyond `count` do not take part."""
    masks = np.random.default_rng(seed).integers(0, 2, (models, 100)).astype(np.uint8)
    pairs = np.ones((models, models), np.int64)
    count_pairs(masks, count, pairs)
    wide = masks[:, :count].astype(np.int64)
    np.testing.assert_array_equal(1 + wide @ wide.T, pairs)
    marks = np.packbits(np.pad(masks * (np.arange(100) < count), ((0, 0), (0, 28))), axis=1, bitorder="little")
    count_common(marks, count, pairs)
    np.testing.assert_array_equal(1 + 2 * wide @ wide.T, pairs)
