"""Steps of one task vector: the difference, its kept part, and the change that goes back to the base."""

from __future__ import annotations

import numpy as np

from dovetail.engine.kernels.task_vectors import add_change, keep_masked, subtract
from tests.engine.kernels.drive import bits


def test_task_vectors_are_float32_differences() -> None:
    """Tau is W - W0, rounded once."""
    weights = np.array([1.0000001, 5.0, -0.0], np.float32)
    base = np.array([1.0, 2.0, 0.0], np.float32)
    values = weights.copy()
    subtract(values, base)
    np.testing.assert_array_equal(weights - base, values)


def test_the_base_stands_where_nothing_changes() -> None:
    """A change of zero, of either sign, leaves every bit of the base; else the sum is rounded once."""
    base = np.array([-0.0, -0.0, 1.0, 1.0, np.nan], np.float32)
    delta = np.array([0.0, -0.0, 1e-9, 1.0, 0.0], np.float32)
    add_change(delta, base)
    np.testing.assert_array_equal(bits(np.array([-0.0, -0.0, 1.0, 2.0, np.nan], np.float32)), bits(delta))


def test_the_kept_part() -> None:
    """Outside its mask a task vector counts as zero, whatever it holds."""
    kept = np.full(3, 7, np.float32)
    keep_masked(np.array([1.5, np.nan, -2], np.float32), np.array([1, 0, 1], np.uint8), kept)
    assert [1.5, 0.0, -2.0] == kept.tolist()
