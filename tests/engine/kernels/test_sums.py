"""Sums of magnitudes and products over a block."""

from __future__ import annotations

from math import fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.kernels.mixing import add_column_grams, mix_columns, mix_rows, row_grams
from dovetail.engine.kernels.sums import TILE, gram, sum_magnitudes, sum_products
from tests.engine.kernels.cases import JITTED, LONGEST, examples

SEEDS = st.integers(0, 2**32 - 1)


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(seed=SEEDS, length=st.integers(0, 2 * LONGEST))
def test_sums_are_exact_to_rounding(seed: int, length: int) -> None:
    """Up to the order of additions, they are the sums of float64 values."""
    random = np.random.default_rng(seed)
    first, second = (random.standard_normal((2, length)) * 0.01).astype(np.float32)
    wanted = [fsum(abs(float(a)) for a in first), fsum(float(a) * float(b) for a, b in zip(first, second, strict=True))]
    size = [wanted[0], fsum(abs(float(a) * float(b)) for a, b in zip(first, second, strict=True))]
    found = [sum_magnitudes(first), sum_products(first, second)]
    for expected, actual, scale in zip(wanted, found, size, strict=True):
        assert abs(expected - actual) <= 1e-14 * scale


@pytest.mark.parametrize("length", [1, 130, TILE + 77 if JITTED else 200])
def test_gram_matrices_hold_all_products(length: int) -> None:
    """Every pair of lines has its product, and only the first elements count."""
    vectors = np.random.default_rng(length).standard_normal((3, length + 5)).astype(np.float32)
    out = np.full((3, 3), 9.0)
    gram(vectors, length, out)
    part = vectors[:, :length].astype(np.float64)
    np.testing.assert_allclose(out, part @ part.T, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(out, out.T)


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
    sums = np.zeros((count, count, columns))
    add_column_grams(vectors[:, :cut], columns, 0, sums)
    add_column_grams(vectors[:, cut:], columns, cut % columns, sums)
    np.testing.assert_allclose(sums, np.einsum("irc,jrc->ijc", wide, wide), rtol=1e-12, atol=1e-12)

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
