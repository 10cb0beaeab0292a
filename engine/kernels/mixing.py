"""Linear combinations whose coefficients can differ by row or by column, and the dot products that they come from.

Dot products are float64 sums in a fixed order, element by element. Combinations are float64 sums too, vectors in order,
and rounded to float32 once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.sums import gram


@njit(nogil=True, cache=True)
def row_grams(vectors: np.ndarray, row_length: int, grams: np.ndarray) -> None:
    """Compute the dot products of every row's vectors.

    Parameters
    ----------
    vectors : float32[:, :]
        One line a vector, holding whole rows.
    row_length : int
        Elements of a row.
    grams : float64[rows, :, :]
        Receives a symmetric matrix for each row.

    """
    for row in range(len(grams)):
        part = vectors[:, row * row_length : (row + 1) * row_length]
        gram(part, row_length, grams[row])


@njit(nogil=True, cache=True)
def add_column_grams(vectors: np.ndarray, columns: int, first: int, grams: np.ndarray) -> None:
    """Add the products of every column's vectors.

    Parameters
    ----------
    vectors : float32[:, :]
        One line a vector: consecutive elements of a tensor with `columns` columns.
    columns : int
        Number of columns.
    first : int
        Column of the first element.
    grams : float64[:, :, columns]
        Symmetric matrices, added to.

    """
    count = vectors.shape[1]
    done, column = 0, first
    while done < count:
        here = min(columns - column, count - done)
        for i in range(len(vectors)):
            for j in range(i + 1):
                a, b = vectors[i, done : done + here], vectors[j, done : done + here]
                sums = grams[i, j, column : column + here]
                for k in range(here):
                    sums[k] += np.float64(a[k]) * np.float64(b[k])
                if i != j:
                    grams[j, i, column : column + here] = sums
        done, column = done + here, 0


@njit(nogil=True, cache=True, inline="always")
def _rounded(change: float, base: np.float32, adds: bool) -> np.float32:
    """Round a combination, added to the base if it `adds`; where it is zero the base stands, the sign of a zero too."""
    if not adds:
        return np.float32(change)
    return base if change == 0.0 else np.float32(np.float64(base) + change)


@njit(nogil=True, cache=True)
def mix_rows(
    vectors: np.ndarray, row_length: int, coefficients: np.ndarray, base: np.ndarray, adds: bool, out: np.ndarray
) -> None:
    """Combine vectors with coefficients of their own for every row.

    Parameters
    ----------
    vectors : float32[:, :]
        One line a vector, holding whole rows.
    row_length : int
        Elements of a row.
    coefficients : float64[rows, :]
        For each row the coefficient of every vector.
    base : float32[:]
        The base model, as long as the vectors.
    adds : bool
        Whether the combination is added to the base.
    out : float32[:]
        Receives the result.

    """
    change = np.empty(row_length, np.float64)
    for row in range(len(coefficients)):
        begin, end = row * row_length, (row + 1) * row_length
        for k in range(row_length):
            change[k] = 0.0
        for j in range(len(vectors)):
            factor, vector = coefficients[row, j], vectors[j, begin:end]
            for k in range(row_length):
                change[k] += factor * np.float64(vector[k])
        origin, result = base[begin:end], out[begin:end]
        for k in range(row_length):
            result[k] = _rounded(change[k], origin[k], adds)


@njit(nogil=True, cache=True)
def mix_columns(
    vectors: np.ndarray, first: int, coefficients: np.ndarray, base: np.ndarray, adds: bool, out: np.ndarray
) -> None:
    """Combine vectors with coefficients of their own for every column.

    Parameters
    ----------
    vectors : float32[:, :]
        One line a vector: consecutive elements of the tensor.
    first : int
        Column of the first element.
    coefficients : float64[:, columns]
        For each vector its coefficient in every column.
    base : float32[:]
        The base model, as long as the vectors.
    adds : bool
        Whether the combination is added to the base.
    out : float32[:]
        Receives the result.

    """
    columns, count = coefficients.shape[1], vectors.shape[1]
    change = np.empty(columns, np.float64)
    done, column = 0, first
    while done < count:
        here = min(columns - column, count - done)
        for k in range(here):
            change[k] = 0.0
        for j in range(len(vectors)):
            factors, vector = coefficients[j, column : column + here], vectors[j, done : done + here]
            for k in range(here):
                change[k] += factors[k] * np.float64(vector[k])
        origin, result = base[done : done + here], out[done : done + here]
        for k in range(here):
            result[k] = _rounded(change[k], origin[k], adds)
        done, column = done + here, 0
