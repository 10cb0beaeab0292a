"""Storing elements in another dtype rounds once, from float64 too."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.kernels.convert import F64, ITEMSIZES
from dovetail.engine.kernels.recode import TILE, recode
from tests.engine.kernels.cases import JITTED, examples, make_values
from tests.engine.kernels.drive import DTYPES, Array, bits
from tests.naive_compare import position


def run(values: Array, code: int) -> tuple[Array, int, int]:
    """Recode an array; give the result, how many NaN and infinities were met, and how many values overflowed."""
    raw = values.view(np.uint8)
    raw.flags.writeable = False
    out = np.full(values.size * ITEMSIZES[code], 0xAA, np.uint8)
    nonfinite = np.zeros(1, np.int64)
    with np.errstate(all="ignore"):
        overflowed = recode(raw, DTYPES.index(values.dtype), out, code, nonfinite)
    return out.view(DTYPES[code]), int(nonfinite[0]), int(overflowed)


@settings(derandomize=True, deadline=None, max_examples=examples(100))
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(0, 60),
    codes=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    style=st.sampled_from(["plain", "special"]),
)
def test_values_go_where_ml_dtypes_puts_them(seed: int, length: int, codes: tuple[int, int], style: str) -> None:
    """Every pair of dtypes gives the nearest number, and counts what is lost."""
    with np.errstate(all="ignore"):
        values = make_values(np.random.default_rng(seed), (length,), None, style).astype(DTYPES[codes[0]])
        if codes[0] == F64:  # ml_dtypes takes float64 through float32: leave nothing to round twice
            values = values.astype(np.float32).astype(np.float64)
        expected = values.astype(DTYPES[codes[1]])
        before, after = np.isfinite(values.astype(np.float64)), np.isfinite(expected.astype(np.float64))
    found, nonfinite, overflowed = run(values, codes[1])
    np.testing.assert_array_equal(bits(expected), bits(found))
    assert (int((~before).sum()), int((before & ~after).sum())) == (nonfinite, overflowed)


@pytest.mark.parametrize("code", [code for code in range(6) if code != F64])
def test_float64_is_rounded_once(code: int) -> None:
    """Values beside every kind of halfway point, nearer to it than float32 can tell, go to the right side."""
    dtype = DTYPES[code]
    steps = np.arange(1, 400 if JITTED else 40, 7)
    bottom = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    tops = [bottom * 2**power for power in (0, 1, 5, 12)]
    values = [
        sign * (step + half) * top * (1 + nudge)
        for step, top, half, nudge, sign in product(steps, tops, (0.0, 0.5), (0.0, 2.0**-50, -(2.0**-50)), (1, -1))
    ]
    found, _, _ = run(np.array(values, np.float64), code)
    exact = found.astype(np.float64)
    for value, result in zip(values, exact, strict=True):
        if np.isfinite(result):
            assert position(Fraction(float(value)), dtype) == position(Fraction(float(result)), dtype), value


def test_the_greatest_float64() -> None:
    """Numbers beyond the range of float32 overflow every dtype but their own; infinities are none that overflow."""
    greatest = np.finfo(np.float64).max
    for code in (0, 1, 2, 4, 5):
        found, nonfinite, overflowed = run(np.array([greatest, -greatest, np.inf, np.nan, 1.0]), code)
        assert (2, 2) == (nonfinite, overflowed)
        assert [False] * 4 + [True] == np.isfinite(found.astype(np.float64)).tolist()


def test_tiles_add_up() -> None:
    """What lies in the last, shorter tile is converted and counted too."""
    values = np.ones(2 * TILE + 3 if JITTED else TILE + 3, np.float32)
    values[-1], values[0] = np.inf, 1e30
    found, nonfinite, overflowed = run(values, 1)
    assert (1, 1) == (nonfinite, overflowed)
    assert (found[1:-1] == 1).all()
