"""Random masks by rank within rows."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.ranks import BINS, mark_by_rank
from tests.engine.kernels.cases import JITTED, examples, make_values


def expected_marks(
    values: NDArray[np.float32], row: int, density: float, epsilon: float, words: NDArray[np.uint32]
) -> list[int]:
    """Rank by sorting, with Python's numbers."""
    marks = []
    for start in range(0, len(values), row):
        part = [abs(float(value)) for value in values[start : start + row]]
        order = sorted(range(row), key=lambda i: (part[i], i))
        low, step = (density - epsilon) * 2.0**32, 2.0 * epsilon * 2.0**32 / (row - 1) if row > 1 else 0.0
        low = low if row > 1 else density * 2.0**32
        here = [0] * row
        for rank, i in enumerate(order):
            here[i] = int(int(words[start + i]) < ceil(low + rank * step) and part[i] != 0)
        marks += here
    return marks


def run(values: NDArray[np.float32], row: int, density: float, epsilon: float, words: NDArray[np.uint32]) -> list[int]:
    """Run the kernel, and see that it cleans up."""
    mask, bins = np.full(len(values), 9, np.uint8), np.zeros((2, BINS), np.uint32)
    mark_by_rank(values, row, (density, epsilon), words, mask, bins)
    assert not bins[0].any()
    return [int(each) for each in mask]


@settings(derandomize=True, deadline=None, max_examples=examples(150))
@given(data=st.data())
def test_marks_are_those_of_sorting(data: st.DataObject) -> None:
    """Whatever the rows, ties, probabilities and words, of either sign of epsilon."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    row, rows = data.draw(st.integers(1, 200 if JITTED else 30)), data.draw(st.integers(1, 3))
    values = make_values(random, (row * rows,), None, data.draw(st.sampled_from(["ties", "plain"]))).astype(np.float32)
    density = data.draw(st.floats(0.2, 0.8))
    epsilon = data.draw(st.floats(-0.19, 0.19))
    words = random.integers(0, 2**32, row * rows, np.uint32)
    assert expected_marks(values, row, density, epsilon, words) == run(values, row, density, epsilon, words)


@pytest.mark.skipif(not JITTED, reason="rows too long for plain Python")
@pytest.mark.parametrize("kind", ["normal", "one bin", "few magnitudes", "ascending"])
@pytest.mark.parametrize("row", [5_000, 40_000])
def test_long_rows(row: int, kind: str) -> None:
    """Rows in which counting would take too long are sorted, with the same result."""
    random = np.random.default_rng(row)
    values = {
        "normal": random.standard_normal(row),
        "one bin": 1 + random.random(row) * 1e-3,
        "few magnitudes": random.integers(-20, 20, row) * 2.0**-9,
        "ascending": np.arange(row) * 1e-7,
    }[kind].astype(np.float32)
    words = random.integers(0, 2**32, row, np.uint32)
    assert expected_marks(values, row, 0.5, 0.15, words) == run(values, row, 0.5, 0.15, words)
