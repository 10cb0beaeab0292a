"""Singular vectors through Gram matrices: exact sums in any portions, and how much the squares cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.methods import gram
from dovetail.engine.methods.gram import ColumnProducts, Gathered, inverse_root, spectrum_of
from tests.engine.kernels.cases import examples

Matrix = NDArray[np.float64]
EPSILON = float(np.finfo(np.float64).eps)


def with_spectrum(rows: int, values: Matrix, seed: int = 0) -> tuple[Matrix, Matrix, Matrix]:
    """Make a matrix with given singular values; give it with its left and right singular vectors."""
    random = np.random.default_rng(seed)
    left = np.linalg.qr(random.standard_normal((rows, len(values))))[0]
    right = np.linalg.qr(random.standard_normal((len(values), len(values))))[0]
    return (left * values) @ right.T, left, right


@pytest.mark.parametrize("wide", [False, True])
@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(data=st.data(), rows=st.integers(1, 20), columns=st.integers(1, 20))
def test_portions_do_not_matter(wide: bool, data: st.DataObject, rows: int, columns: int) -> None:
    """Elements come in any portions, empty ones too; the products are those of the whole, and the same bits."""
    values = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).standard_normal((rows, columns))
    flat, found = values.reshape(-1), []
    edges = sorted(data.draw(st.lists(st.integers(0, flat.size), max_size=5)))
    for cuts in ([], edges):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gram, "PANEL", 32)
            taken = Gathered(rows, columns, np.float64) if wide else ColumnProducts(rows, columns)
            for first, last in zip([0, *cuts], [*cuts, flat.size], strict=True):
                taken.add(flat[first:last])
            found.append(taken.gram() if isinstance(taken, Gathered) else taken.take())
            if isinstance(taken, Gathered):
                np.testing.assert_array_equal(values, taken.matrix)
                np.testing.assert_allclose(values[:2] @ values.T @ values, taken.multiplied(values[:2] @ values.T))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(values @ values.T if wide else values.T @ values, found[0], atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_what_squaring_costs(seed: int) -> None:
    """A direction with a share q of the largest singular value is exact to a few epsilon / q^2 or 1e-9, the greater
    of both, and zero below 1e-7: the factors of the weakest directions are large, and so are their rounding errors.

    The singular value decomposition in float64 would give each to epsilon / q.
    """
    shares = np.logspace(0, -9, 60)
    matrix, left, right = with_spectrum(100, shares, seed)
    flat = matrix @ inverse_root(matrix.T @ matrix)
    found = np.diag(left.T @ flat @ right)  # 1 in each direction, if all were exact
    clear = shares > 2e-7
    assert 30 < clear.sum() < 50
    np.testing.assert_array_less(np.abs(found - 1)[clear], np.maximum(20 * EPSILON / shares**2, 1e-9)[clear])
    np.testing.assert_array_less(np.abs(found)[shares < 5e-8], 1e-3)
    # A direction takes up others, too, by 1e-10 / q or so.
    others = np.abs(left.T @ flat @ right - np.diag(found)) * shares[:, np.newaxis]
    np.testing.assert_array_less(others[clear], 3e-9)


def test_values_that_rounding_may_have_made_are_left_out() -> None:
    """Of a matrix of rank 3, there are three singular values, however large it is; of zeros, there are none."""
    for rows in (4, 50, 400):
        matrix, _, _ = with_spectrum(rows, np.array([5.0, 2.0, 1.0]))
        wide = matrix @ np.random.default_rng(1).standard_normal((3, rows))
        found = spectrum_of(wide.T @ wide)
        assert 3 == len(found.values)
        np.testing.assert_allclose(np.linalg.svd(wide, compute_uv=False)[:3], found.values, rtol=1e-10)
    assert 0 == len(spectrum_of(np.zeros((4, 4))).values)
    assert (0, 0) == inverse_root(np.zeros((0, 0))).shape
    np.testing.assert_array_equal(np.zeros((4, 4)), inverse_root(np.zeros((4, 4))))


def test_orthonormal_vectors_are_the_nearest() -> None:
    """No others that are orthonormal come closer to given vectors, and those on the span of dependent ones suffice."""
    random = np.random.default_rng(2)
    vectors = random.standard_normal((12, 4))
    found = vectors @ inverse_root(vectors.T @ vectors)
    np.testing.assert_allclose(np.eye(4), found.T @ found, atol=1e-12)
    least = np.linalg.norm(vectors - found)
    for _ in range(50):
        turned = np.linalg.qr(found + 0.1 * random.standard_normal(found.shape))[0]
        turned *= np.sign(np.sum(turned * found, axis=0))
        assert least <= np.linalg.norm(vectors - turned)
    twice = np.hstack([found, found])
    np.testing.assert_allclose(twice / np.sqrt(2), twice @ inverse_root(twice.T @ twice), atol=1e-12)
