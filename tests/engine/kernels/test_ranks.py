"""Random masks by rank within rows."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.rank_scratch import BINS
from dovetail.engine.kernels.ranks import mark_by_rank
from tests.engine.kernels.cases import JITTED, examples, make_values


def expected_marks(
    values: NDArray[np.float32], row: int, density: float, epsilon: float, words: NDArray[np.uint32]
) -> list[int]:
    """Rank by sorting, with Python's numbers."""
    marks = []
    for start in range(0, len(values), row):
        part = [int(bits) for bits in np.abs(values[start : start + row]).view(np.uint32)]  # so that NaN has a rank
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
    mask, counts = np.full(len(values), 9, np.uint8), np.zeros(BINS, np.uint32)
    mark_by_rank(values, row, (density, epsilon), words, mask, counts)
    assert not counts.any()
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


def near(random: np.random.Generator, count: int, dtype: str) -> NDArray[np.float32]:
    """Make differences of two models in a narrow dtype, some of which have more bits than most."""
    base = (random.standard_normal(count) * 0.02).astype(np.float32)
    tuned = base + random.standard_t(3, count).astype(np.float32) * 2e-4
    kind = np.float16 if dtype == "float16" else getattr(ml_dtypes, dtype)
    return tuned.astype(kind).astype(np.float32) - base.astype(kind).astype(np.float32)


ROWS: dict[str, Callable[[np.random.Generator, int], NDArray[Any]]] = {
    "normal": lambda random, count: random.standard_normal(count),
    "one bin": lambda random, count: 1 + random.random(count) * 1e-3,
    "few magnitudes": lambda random, count: random.integers(-20, 20, count) * 2.0**-9,
    "ascending": lambda random, count: np.arange(count) * 1e-7,
    "descending": lambda random, count: np.arange(count)[::-1] * -1e-7,
    "bfloat16": lambda random, count: near(random, count, "bfloat16"),
    "float16": lambda random, count: near(random, count, "float16"),
    "all equal": lambda random, count: np.full(count, -0.1),
    "all equal, few bits": lambda random, count: np.full(count, 0.5),
    "two values": lambda random, count: random.choice([0.1, -0.3], count),
    "zeros": lambda random, count: random.choice([0.0, -0.0], count),
    "mostly zeros": lambda random, count: np.where(random.random(count) < 0.9, 0.0, random.standard_normal(count)),
    "denormal": lambda random, count: random.integers(-1000, 1000, count) * 1e-45,
    "one outlier": lambda random, count: np.where(np.arange(count) == count // 2, 3e38, random.random(count) * 1e-9),
    "one odd": lambda random, count: np.where(np.arange(count) == 7, 0.1, random.integers(-9, 9, count) / 8.0),
    "odd ties": lambda random, count: np.where(random.random(count) < 0.04, 0.1, 0.09375),
    "all exponents": lambda random, count: random.choice([-1.0, 1.0], count) * 2.0 ** random.integers(-149, 128, count),
    "greatest": lambda random, count: np.full(count, np.finfo(np.float32).max),
    "infinite": lambda random, count: np.where(random.random(count) < 0.3, -np.inf, random.integers(0, 3, count)),
    "any bits": lambda random, count: random.integers(0, 2**32, count, np.uint32).view(np.float32),
}
"""Rows that are hard to rank."""


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("row", [47, 48, 49, 1000, 4096, 40_000] if JITTED else [48, 49])
def test_rows_that_are_hard_to_rank(row: int, kind: str) -> None:
    """Ties, zeros, outliers, denormals, NaN: marks are those of sorting, in rows of every length."""
    random = np.random.default_rng(row)
    with np.errstate(all="ignore"):
        values = ROWS[kind](random, row).astype(np.float32)
    words = random.integers(0, 2**32, row, np.uint32)
    for epsilon in (0.15, -0.4):
        assert expected_marks(values, row, 0.5, epsilon, words) == run(values, row, 0.5, epsilon, words)


def test_probabilities_next_to_0_and_1() -> None:
    """A word below every edge keeps, and one above every edge drops, also where an edge rounds up to 2^32."""
    values = np.arange(1, 101, dtype=np.float32)
    density, epsilon = 0.5, 0.5 - 2.0**-40
    lowest, greatest = np.zeros(100, np.uint32), np.full(100, 2**32 - 1, np.uint32)
    assert expected_marks(values, 100, density, epsilon, lowest) == run(values, 100, density, epsilon, lowest)
    assert [0] * 99 + [1] == run(values, 100, density, epsilon, greatest)
