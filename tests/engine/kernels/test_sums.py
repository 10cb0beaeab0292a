"""Sums of squares, magnitudes and products over a block."""

from __future__ import annotations

import platform
import re
from math import fsum
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.mixing import add_column_grams, mix_columns, mix_rows, row_grams
from dovetail.engine.kernels.sums import sum_magnitudes, sum_products, sum_squares
from tests.engine.kernels.cases import JITTED, LONGEST, examples

SEEDS = st.integers(0, 2**32 - 1)


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(seed=SEEDS, length=st.integers(0, 2 * LONGEST))
def test_sums_are_exact_to_rounding(seed: int, length: int) -> None:
    """The sums are those of float64 values, up to the rounding of additions."""
    random = np.random.default_rng(seed)
    first, second = (random.standard_normal((2, length)) * 0.01).astype(np.float32)
    wanted = [fsum(abs(float(a)) for a in first), fsum(float(a) * float(b) for a, b in zip(first, second, strict=True))]
    size = [wanted[0], fsum(abs(float(a) * float(b)) for a, b in zip(first, second, strict=True))]
    found = [sum_magnitudes(first), sum_products(first, second)]
    for expected, actual, scale in zip(wanted, found, size, strict=True):
        assert abs(expected - actual) <= 1e-14 * scale


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(0, 700))
def test_sums_of_squares(seed: int, length: int) -> None:
    """The float64 sum is right to the last few bits, whatever the length."""
    values = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
    assert np.sum(values.astype(np.float64) ** 2) == pytest.approx(sum_squares(values), rel=1e-13)


def test_squares_keep_the_range_of_float64() -> None:
    """Neither the greatest nor the least float32 overflows or vanishes when squared."""
    greatest, least = np.finfo(np.float32).max, np.float32(1e-45)
    assert np.isfinite(sum_squares(np.full(300, greatest)))
    assert sum_squares(np.full(1, least)) > 0
    assert not np.isfinite(sum_squares(np.array([1, np.nan], np.float32)))


def add_in_lanes(terms: NDArray[np.float64]) -> float:
    """Add terms in the documented order: rows of four terms to each of 32 lanes, then the lanes, then the rest."""
    lanes, whole = [0.0] * 32, len(terms) // 128 * 128
    for start in range(0, whole, 128):
        for lane in range(32):
            t0, t1, t2, t3 = (float(terms[start + lane + 32 * number]) for number in range(4))
            lanes[lane] += t0 + t1 + t2 + t3
    total = 0.0
    for number in (*lanes, *(float(term) for term in terms[whole:])):
        total += number
    return total


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 1000])
def test_the_order_of_additions_is_fixed(length: int) -> None:
    """All three sums have the bits that the documented order of additions gives."""
    first, second = np.random.default_rng(length).standard_normal((2, length)).astype(np.float32)
    wide, other = first.astype(np.float64), second.astype(np.float64)
    assert add_in_lanes(wide * wide) == sum_squares(first)
    assert add_in_lanes(np.abs(wide)) == sum_magnitudes(first)
    assert add_in_lanes(wide * other) == sum_products(first, second)


@pytest.mark.skipif(not JITTED or platform.machine() != "x86_64", reason="reads x86-64 machine code")
@pytest.mark.parametrize(("kernel", "vectors"), [(sum_squares, 1), (sum_magnitudes, 1), (sum_products, 2)])
def test_sums_are_vector_code(kernel: Any, vectors: int) -> None:
    """Each element is widened and added in packed instructions, read no more often than needed, and never fused."""
    fresh = numba.njit(nogil=True)(kernel.py_func)
    fresh.compile((numba.float32[::1],) * vectors)
    (assembly,) = fresh.inspect_asm().values()
    widened, added = (len(re.findall(rf"\bv?{name}\b", assembly)) for name in ("cvtps2pd", "addpd"))
    assert added > 0
    assert widened == vectors * added
    assert "fmadd" not in assembly


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(seed=SEEDS, rows=st.integers(1, 6), columns=st.integers(1, 40), count=st.integers(1, 3), adds=st.booleans())
def test_rows_and_columns_have_coefficients_of_their_own(
    seed: int, rows: int, columns: int, count: int, adds: bool
) -> None:
    """Dot products and combinations are those of numpy's rows and columns, also from the middle of a row on."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, rows * columns)).astype(np.float32)
    base = random.standard_normal(rows * columns).astype(np.float32)
    wide = vectors.reshape(count, rows, columns).astype(np.float64)
    grams = np.empty((rows, count, count))
    row_grams(vectors, columns, grams)
    np.testing.assert_allclose(grams, np.einsum("irc,jrc->rij", wide, wide), rtol=1e-12, atol=1e-12)
    cut = int(random.integers(0, rows * columns + 1))
    sums = np.zeros((count * (count + 1) // 2, columns))
    add_column_grams(vectors[:, :cut], columns, 0, sums)
    add_column_grams(vectors[:, cut:], columns, cut % columns, sums)
    whole = np.einsum("irc,jrc->ijc", wide, wide)
    np.testing.assert_allclose(sums, whole[np.tril_indices(count)], rtol=1e-12, atol=1e-12)

    origin = base.astype(np.float64) if adds else 0.0
    by_row, by_column = random.standard_normal((rows, count)), random.standard_normal((count, columns))
    mixed = np.empty(rows * columns, np.float32)
    mix_rows(vectors, columns, by_row, base, adds, mixed)
    expected = origin + np.einsum("rj,jrc->rc", by_row, wide).ravel()
    np.testing.assert_allclose(mixed, expected, rtol=2e-7, atol=1e-13)
    mixed[:] = 9
    mix_columns(vectors[:, :cut], 0, by_column, base[:cut], adds, mixed[:cut])
    mix_columns(vectors[:, cut:], cut % columns, by_column, base[cut:], adds, mixed[cut:])
    expected = origin + np.einsum("jc,jrc->rc", by_column, wide).ravel()
    np.testing.assert_allclose(mixed, expected, rtol=2e-7, atol=1e-13)


def test_a_change_of_zero_leaves_the_base_alone() -> None:
    """The sign of a zero in the base is kept where nothing is added to it."""
    base, out = np.array([-0.0, 0.0, 1.0], np.float32), np.empty(3, np.float32)
    mix_rows(np.zeros((1, 3), np.float32), 3, np.ones((1, 1)), base, True, out)
    np.testing.assert_array_equal(base.view(np.uint32), out.view(np.uint32))
    mix_columns(np.zeros((1, 3), np.float32), 0, np.ones((1, 3)), base, True, out)
    np.testing.assert_array_equal(base.view(np.uint32), out.view(np.uint32))
