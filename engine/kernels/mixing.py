"""Linear combinations whose coefficients can differ by row or by column, and the dot products that they come from.

Dot products are float64 sums in a fixed order, element by element. Combinations are float64 sums too, vectors in order,
and rounded to float32 once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import ITEMSIZES, decode, encode
from dovetail.engine.kernels.statistics import count_nonfinite
from dovetail.engine.kernels.sums import TILE, gram, sum_products
from dovetail.engine.kernels.task_vectors import subtract


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


@njit(nogil=True, cache=True)
def _decode_all(sources, codes, relative, start, stop, lines):  # type: ignore[no-untyped-def]
    """Decode a tile of every source; turn all but the first into task vectors if they are to be relative to it."""
    count = stop - start
    for j in range(len(sources)):
        decode(sources[j], codes[j], start, stop, lines[j, :count])
        if relative and j > 0:
            subtract(lines[j, :count], lines[0, :count])


@njit(nogil=True, cache=True)
def source_gram(sources, codes, relative, start, stop, out):  # type: ignore[no-untyped-def]
    """Compute every dot product of a run of stored elements, tile by tile.

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes, all of the same type; the first are the base model's if `relative`.
    codes : int64[:]
        Their dtype codes.
    relative : bool
        Whether the vectors are task vectors, so that there is one fewer than sources.
    start, stop : int
        Elements of the sources.
    out : float64[:, :]
        Receives the symmetric matrix of dot products.

    """
    lines = np.empty((len(sources), TILE), np.float32)
    skipped = 1 if relative else 0
    out[:] = 0.0
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        _decode_all(sources, codes, relative, first, last, lines)
        for i in range(len(out)):
            for j in range(i + 1):
                out[i, j] += sum_products(lines[i + skipped, : last - first], lines[j + skipped, : last - first])
    for i in range(len(out)):
        for j in range(i):
            out[j, i] = out[i, j]


@njit(nogil=True, cache=True)
def mix_sources(sources, codes, coefficients, adds, out, out_code, nonfinite):  # type: ignore[no-untyped-def]
    """Combine stored tensors with one set of coefficients over the whole of `out`.

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes, all of the same type; the first are the base model's if the combination `adds`.
    codes : int64[:]
        Their dtype codes.
    coefficients : float64[:]
        The coefficient of every source or, if it `adds`, of every task vector.
    adds : bool
        Whether the combination is of task vectors and added to the base.
    out : uint8[:]
        Receives the stored bytes of the result.
    out_code : int
        Its dtype code.
    nonfinite : int64[:]
        NaN and infinite elements of each source; added to.

    Returns
    -------
    int
        Elements of the output that are not finite.

    """
    lines = np.empty((len(sources), TILE), np.float32)
    change, result = np.empty(TILE, np.float64), np.empty(TILE, np.float32)
    skipped = 1 if adds else 0
    overflowed = 0
    length = len(out) // ITEMSIZES[out_code]
    for start in range(0, length, TILE):
        stop = min(start + TILE, length)
        count = stop - start
        _decode_all(sources, codes, False, start, stop, lines)
        for j in range(len(sources)):
            nonfinite[j] += count_nonfinite(lines[j, :count])
            if adds and j > 0:
                subtract(lines[j, :count], lines[0, :count])
        for k in range(count):
            change[k] = 0.0
        for j in range(len(coefficients)):
            factor, vector = coefficients[j], lines[j + skipped]
            for k in range(count):
                change[k] += factor * np.float64(vector[k])
        base = lines[0]
        for k in range(count):
            result[k] = _rounded(change[k], base[k], adds)
        overflowed += count_nonfinite(result[:count])
        overflowed += encode(result, out_code, start, stop, out)
    return overflowed
