"""The kernels that apply adapters, against plain numpy, to the last bit where bits are promised."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.io.adapters.kernels import LANES, add_column_squares, add_product, row_norms
from tests.adapters import plain_sum


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (5, 33)])
def test_add_product(rows: int, columns: int, rank: int) -> None:
    """A block inside a wider matrix gets the sum of its terms in their order; the rest of the matrix is untouched."""
    random = np.random.default_rng(rank * rows)
    left = random.standard_normal((rows, rank)).astype(np.float32)
    right = random.standard_normal((rank, columns)).astype(np.float32)
    matrix = random.standard_normal((rows + 2, columns + 5)).astype(np.float32)
    expected = matrix.copy()
    expected[1:-1, 2:-3] = plain_sum(matrix[1:-1, 2:-3], left, right, 0.3)
    add_product(left, right, np.float32(0.3), matrix.reshape(-1), columns + 5 + 2, columns + 5)
    assert expected.tobytes() == matrix.tobytes()


@pytest.mark.parametrize("columns", [1, LANES - 1, LANES, 3 * LANES + 5])
def test_row_norms(columns: int) -> None:
    """A norm is that of float64, rounded, and depends on nothing but its row."""
    values = (np.random.default_rng(columns).standard_normal((6, columns)) * 1e18).astype(np.float32)
    norms, alone = np.empty(6, np.float32), np.empty(1, np.float32)
    row_norms(values.reshape(-1), norms)
    np.testing.assert_allclose(norms, np.linalg.norm(values.astype(np.float64), axis=1), rtol=1e-7)
    for index in range(6):
        row_norms(values[index].copy(), alone)
        assert norms[index] == alone[0]


def test_add_column_squares() -> None:
    """Totals are the same however the rows are handed over."""
    values = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    whole, parts = np.zeros(5), np.zeros(5)
    add_column_squares(values.reshape(-1), whole)
    for low, high in ((0, 1), (1, 6), (6, 9)):
        add_column_squares(values[low:high].reshape(-1), parts)
    assert whole.tobytes() == parts.tobytes()
    np.testing.assert_allclose(whole, (values.astype(np.float64) ** 2).sum(axis=0), rtol=1e-13)
