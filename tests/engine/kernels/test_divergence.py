"""The divergence of softmax distributions."""

from __future__ import annotations

from math import exp, fsum, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.divergence import EPSILON, importance, row_divergence, row_divergences
from tests.engine.kernels.cases import examples

Floats = NDArray[np.float32]


def probabilities(row: Floats) -> list[float]:
    """Softmax plus epsilon, with the system's exponential."""
    most = float(max(row))
    powers = [exp(float(value) - most) for value in row]
    whole = fsum(powers)
    return [power / whole + EPSILON for power in powers]


def divergence(tuned: Floats, base: Floats) -> tuple[float, float]:
    """The divergence by its definition, and how large its terms are."""
    terms = [p * log(p / q) for p, q in zip(probabilities(tuned), probabilities(base), strict=True)]
    return max(fsum(terms), 0.0), fsum(map(abs, terms))


@settings(derandomize=True, deadline=None, max_examples=examples(100))
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 60),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 2000.0]),
    change=st.sampled_from([1e-6, 1e-3, 1.0, 50.0]),
)
def test_divergences_are_those_of_the_definition(seed: int, length: int, scale: float, change: float) -> None:
    """The divergence of near and of far distributions is right up to the rounding of float32 and of the terms."""
    random = np.random.default_rng(seed)
    base = (random.standard_normal(length) * scale).astype(np.float32)
    tuned = (base + random.standard_normal(length) * change).astype(np.float32)
    expected, size = divergence(tuned, base)
    found = float(row_divergence(tuned, base, np.empty((3, length))))
    assert abs(expected - found) <= 1e-7 * expected + 1e-14 * size + 1e-15


@pytest.mark.parametrize("length", [1, 2, 33])
def test_equal_rows_do_not_diverge(length: int) -> None:
    """A row and itself: exactly zero."""
    row = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    assert 0.0 == row_divergence(row, row.copy(), np.empty((3, length)))


def test_rows_are_taken_one_by_one() -> None:
    """Every row has its own number, and importance takes that of its element's row, wherever it begins."""
    random = np.random.default_rng(1)
    base, tuned = random.standard_normal((2, 21)).astype(np.float32)
    out, scratch = np.empty(3, np.float32), np.empty((3, 7))
    row_divergences(tuned, base, 7, scratch, out)
    for row in range(3):
        part = slice(7 * row, 7 * row + 7)
        assert row_divergence(tuned[part], base[part], scratch) == out[row]
    tau = tuned - base
    scores = np.empty(13, np.float32)
    importance(tau[5:18], 5, 7, out, scores)
    np.testing.assert_array_equal(np.abs(tau[5:18]) * out[np.arange(5, 18) // 7], scores)
