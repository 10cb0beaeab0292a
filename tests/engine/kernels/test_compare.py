"""Comparing tensors element by element agrees with the definitions, for every pair of dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.compare import CHANGED, FARTHEST, LARGEST, RELATIVE, TILE, UNMATCHED, coarser, compare
from tests import naive_compare
from tests.engine.kernels.cases import JITTED, examples, make_values
from tests.engine.kernels.drive import DTYPES

BF16 = np.dtype(ml_dtypes.bfloat16)


def run(first: NDArray[Any], second: NDArray[Any]) -> tuple[int, int, int, float, float]:
    """Compare two arrays; give counts and maxima."""
    counts, maxima = np.zeros(3, np.uint64), np.zeros(2)
    codes = DTYPES.index(first.dtype), DTYPES.index(second.dtype)
    raw = [np.ravel(array).view(np.uint8) for array in (first, second)]
    for part in raw:
        part.flags.writeable = False
    with np.errstate(all="ignore"):
        compare(raw[0], codes[0], raw[1], codes[1], coarser(*codes), counts, maxima)
    return int(counts[CHANGED]), int(counts[UNMATCHED]), int(counts[FARTHEST]), maxima[LARGEST], maxima[RELATIVE]


@settings(derandomize=True, deadline=None, max_examples=examples(150))
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(0, 40),
    style=st.sampled_from(["ties", "plain", "special"]),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
)
def test_the_definitions(seed: int, length: int, style: str, dtypes: tuple[np.dtype[Any], np.dtype[Any]]) -> None:
    """Counts, units in the last place and maxima are those of the oracle, which reckons in fractions."""
    random = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        base = make_values(random, (length,), None, style)
        first = base.astype(dtypes[0])
        other = make_values(random, (length,), base, style)
        second = np.where(random.random(length) < 0.5, base, other).astype(dtypes[1])
    expected = naive_compare.compare(first, second)
    changed, unmatched, ulp, absolute, relative = run(first, second)
    assert (expected.changed, expected.unmatched, expected.max_ulp) == (changed, unmatched, ulp)
    assert float(min(expected.max_abs, int(np.finfo(np.float64).max))) == pytest.approx(absolute, rel=1e-15, abs=0)
    assert float(expected.max_rel) == pytest.approx(relative, rel=1e-15, abs=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_conversion_is_no_unit_away(dtype: np.dtype[Any]) -> None:
    """Rounded to any dtype, a tensor is 0 units in the last place from what it was rounded from."""
    values = np.random.default_rng(0).standard_normal(200).astype(np.float64 if dtype.itemsize >= 4 else np.float32)
    changed, unmatched, ulp, _, _ = run(values, values.astype(dtype))
    assert (0, 0) == (unmatched, ulp)
    assert (changed > 0) == (dtype != values.dtype)


@pytest.mark.skipif(not JITTED, reason="as plain Python it takes minutes")
def test_neighbours_are_one_unit_apart() -> None:
    """Every finite bfloat16 and the next are 1 unit apart, across zero too."""
    bits = np.arange(0x7F80, dtype=np.uint16)
    ascending = np.concatenate([(bits[:0:-1] | 0x8000), bits]).view(BF16)
    for low, high in zip(ascending[:-1:97], ascending[1::97], strict=True):
        assert 1 == run(np.array([low], BF16), np.array([high], BF16))[2]
    assert 0 == run(np.array([-0.0], BF16), np.array([0.0], BF16))[2]


def test_the_whole_range_of_float64() -> None:
    """Steps between the least and the greatest number need all of 64 bits; the difference itself is capped."""
    greatest = np.finfo(np.float64).max
    _, _, ulp, absolute, _ = run(np.array([-greatest]), np.array([greatest]))
    assert 2 * 0x7FEFFFFFFFFFFFFF == ulp
    assert greatest == absolute


def test_what_is_equal() -> None:
    """Zeros of both signs, NaN of any payload and equal infinities are equal; NaN and a number are unmatched."""
    first = np.array([0.0, np.nan, np.inf, -np.inf, np.nan, 1.0, np.inf], np.float32)
    second = np.array([-0.0, np.nan, np.inf, np.inf, 1.0, np.inf, 3.0], np.float32)
    second[1:2] = np.array([0xFF800001], np.uint32).view(np.float32)
    assert (4, 4, 0, 0.0, 0.0) == run(first, second)


def test_tiles_add_up() -> None:
    """Differences in several tiles are all counted, and the greatest is found wherever it is."""
    first = np.zeros(3 * TILE + 5 if JITTED else TILE + 5, np.float32)
    second = first.copy()
    second[[3, TILE - 1, TILE, len(first) - 1]] = [1.0, -2.0, 0.5, 9.0]
    changed, unmatched, _, absolute, relative = run(first, second)
    assert (4, 0, 9.0, 1.0) == (changed, unmatched, absolute, relative)
