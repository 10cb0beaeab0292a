"""The space of a search: values and positions in the unit cube."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.searching.space import Dimension, Space

WEIGHT = Dimension("w", "weight", (), "float", 0.1, 2.0)
EPSILON = Dimension("e", "epsilon", (), "float", 1e-4, 1.0, log=True)
N = Dimension("n", "n", (), "int", 3, 9)
SPREAD_N = Dimension("n", "n", (), "int", 1, 256, log=True)
WORD = Dimension("c", "overlap", (), "choice", options=("forbid", "minimize", "other"))
ORDER = Dimension("o", "pruning_order", (), "order", options=("a", "b", "c"))
ALL = (WEIGHT, EPSILON, N, SPREAD_N, WORD, ORDER)


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_positions_have_values_within_bounds(coordinates: list[float]) -> None:
    """Every position has values that the marks allow, and the position of these values has them again."""
    space = Space(ALL)
    values = space.values(np.array(coordinates))
    assert 0.1 <= values[0] <= 2.0  # type: ignore[operator]
    assert 1e-4 <= values[1] <= 1.0  # type: ignore[operator]
    assert values[2] in range(3, 10)
    assert values[3] in range(1, 257)
    assert values[4] in WORD.options
    assert sorted(values[5]) == ["a", "b", "c"]  # type: ignore[arg-type]
    again = space.values(space.position(values))
    assert values[2:] == again[2:]
    assert np.allclose(np.array(values[:2], float), np.array(again[:2], float), rtol=2e-5)


def test_numbers_are_spread_evenly() -> None:
    """A range is covered from end to end, by the logarithm if that is asked for, in at most six digits."""
    at = [np.array([share]) for share in (0.0, 0.5, 1.0)]
    assert [0.1, 1.05, 2.0] == [WEIGHT.value(part) for part in at]
    assert [1e-4, 1e-2, 1.0] == [EPSILON.value(part) for part in at]
    assert 0.733333 == WEIGHT.value(np.array([1 / 3]))


def test_whole_numbers_and_choices_have_equal_parts() -> None:
    """Whole numbers and choices take an edge of the cube in equal parts, and orders the cube."""
    edge = (np.arange(2100) + 0.5) / 2100
    assert dict.fromkeys(range(3, 10), 300) == Counter(N.value(np.array([share])) for share in edge)
    assert dict.fromkeys(WORD.options, 700) == Counter(WORD.value(np.array([share])) for share in edge)
    drawn = np.random.default_rng(0).random((6000, 3))
    counts = Counter(ORDER.value(part) for part in drawn)
    assert set(itertools.permutations("abc")) == set(counts)
    assert all(850 < count < 1150 for count in counts.values())


def test_logarithms_of_whole_numbers() -> None:
    """On a logarithmic scale the middle is the geometric mean, and both ends are reached."""
    assert [1, 11, 256] == [SPREAD_N.value(np.array([share])) for share in (0.0, 0.5, 1.0)]


@pytest.mark.parametrize(
    ("dimension", "most", "expected"),
    [
        (WEIGHT, 3, [0.1, 1.05, 2.0]),
        (WEIGHT, 1, [1.05]),
        (EPSILON, 5, [1e-4, 1e-3, 1e-2, 0.1, 1.0]),
        (N, 10, [3, 4, 5, 6, 7, 8, 9]),
        (N, 3, [3, 6, 9]),
        (WORD, 3, ["forbid", "minimize", "other"]),
        (ORDER, 6, list(itertools.permutations("abc"))),
    ],
)
def test_levels(dimension: Dimension, most: int, expected: list[object]) -> None:
    """Levels are spread evenly from the first value to the last, all where there is room."""
    assert expected == dimension.levels(most)
