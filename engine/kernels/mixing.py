"""Linear combinations of vectors, with coefficients for a tensor, a row or a column, and the dot products behind them.

Dot products are sums in float64, in a fixed order of the elements. Combinations are sums in float64 too, in the order
of the vectors, and are rounded to float32 once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.combining import combine, combine_and_add, rounded
from dovetail.engine.kernels.convert import BF16, F32, ITEMSIZES, decode, encode
from dovetail.engine.kernels.products import add_rows, add_stored, add_totals, gram, lane_bytes, mirror
from dovetail.engine.kernels.statistics import count_nonfinite
from dovetail.engine.kernels.stored_mix import mix_stored
from dovetail.engine.kernels.sums import LANES, ROW, TILE
from dovetail.engine.kernels.task_vectors import subtract

PART = 1024
"""Elements of every source that are decoded at a time: few enough for the L1 cache, and whole rows of lanes."""


def tile_bytes(sources: int) -> int:
    """Compute the bytes of working memory of `source_gram` or `mix_sources` for so many sources."""
    return 4 * PART * (sources + 1) + lane_bytes(sources)


@njit(nogil=True, cache=True)
def row_grams(vectors: np.ndarray, row_length: int, grams: np.ndarray) -> None:
    """Compute, for every row of a tensor, the dot products of the vectors' parts in that row.

    Parameters
    ----------
    vectors : float32[:, :]
        One vector in each line, made of whole rows of the tensor.
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
    """Add, for every column of a tensor, to the dot products of the vectors' parts in that column.

    Parameters
    ----------
    vectors : float32[:, :]
        One vector in each line: consecutive elements of the tensor.
    columns : int
        Number of columns of the tensor.
    first : int
        Column of the first element.
    grams : float64[pairs, columns]
        The lower triangle of a symmetric matrix for each column, row by row, which the kernel adds to.

    """
    count = vectors.shape[1]
    done, column = 0, first
    while done < count:
        here = min(columns - column, count - done)
        for i in range(len(vectors)):
            for j in range(i + 1):
                a, b = vectors[i, done : done + here], vectors[j, done : done + here]
                sums = grams[i * (i + 1) // 2 + j, column : column + here]
                for k in range(here):
                    sums[k] += np.float64(a[k]) * np.float64(b[k])
        done, column = done + here, 0


@njit(nogil=True, cache=True)
def mix_rows(
    vectors: np.ndarray, row_length: int, coefficients: np.ndarray, base: np.ndarray, adds: bool, out: np.ndarray
) -> None:
    """Combine vectors linearly, with different coefficients for every row of the tensor.

    Parameters
    ----------
    vectors : float32[:, :]
        One vector in each line, made of whole rows of the tensor.
    row_length : int
        Elements of a row.
    coefficients : float64[rows, :]
        For each row, the coefficient of every vector.
    base : float32[:]
        The base model's values, as many as a vector has.
    adds : bool
        Whether to add the base model's values to the combination.
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
            result[k] = rounded(change[k], origin[k], adds)


@njit(nogil=True, cache=True)
def mix_columns(
    vectors: np.ndarray, first: int, coefficients: np.ndarray, base: np.ndarray, adds: bool, out: np.ndarray
) -> None:
    """Combine vectors linearly, with different coefficients for every column of the tensor.

    Parameters
    ----------
    vectors : float32[:, :]
        One vector in each line: consecutive elements of the tensor.
    first : int
        Column of the first element.
    coefficients : float64[:, columns]
        For each vector, its coefficient in every column.
    base : float32[:]
        The base model's values, as many as a vector has.
    adds : bool
        Whether to add the base model's values to the combination.
    out : float32[:]
        Receives the result.

    """
    columns, count = coefficients.shape[1], vectors.shape[1]
    change = np.empty(min(columns, count), np.float64)
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
            result[k] = rounded(change[k], origin[k], adds)
        done, column = done + here, 0


@njit(nogil=True, cache=True)
def _decode_all(sources, codes, relative, start, stop, lines):  # type: ignore[no-untyped-def]
    """Decode a tile of every source; if `relative`, turn all but the first, the base model, into task vectors."""
    count = stop - start
    for j in range(len(sources)):
        decode(sources[j], codes[j], start, stop, lines[j, :count])
        if relative and j > 0:
            subtract(lines[j, :count], lines[0, :count])


@njit(nogil=True, cache=True)
def source_gram(base, vectors, codes, start, stop, out):  # type: ignore[no-untyped-def]
    """Compute the dot products of all pairs of stored vectors over a run of elements, tile by tile.

    Parameters
    ----------
    base : tuple of uint8[:]
        Stored bytes of the base model if the products are those of task vectors; else empty.
    vectors : tuple of uint8[:]
        Stored bytes of the models, V of them; all arrays are of one numba type.
    codes : int64[:]
        Dtype codes of the base model, if it is there, and of the models.
    start, stop : int
        First element of the run in the sources, and one past its last.
    out : float64[V, V]
        Receives the symmetric matrix of dot products.

    """
    sources, skipped = base + vectors, len(base)
    lines = np.empty((len(sources), PART), np.float32)
    lanes = np.zeros((len(out) * (len(out) + 1) // 2, LANES))
    out[:] = 0.0
    code = codes[0]
    as_stored = code in (BF16, F32) and np.all(codes == code)
    for first in range(start, stop, TILE):
        end = min(first + TILE, stop)
        low, high = first, first
        if as_stored:
            rows = (end - first) // ROW
            add_stored(base, vectors, code, first, rows, lanes)
            low = high = first + rows * ROW
        while high < end:
            low, high = high, min(high + PART, end)
            _decode_all(sources, codes, skipped > 0, low, high, lines)
            add_rows(lines[skipped:, : high - low], lanes)
        add_totals(lines[skipped:, : high - low], lanes, out)
    mirror(out)


@njit(nogil=True, cache=True)
def block_grams(base, vectors, codes, bounds, out):  # type: ignore[no-untyped-def]
    """Compute the dot products of several runs of elements in one call.

    Parameters
    ----------
    base, vectors, codes
        As for `source_gram`.
    bounds : int64[:, 2]
        First element of every run in the sources, and one past its last.
    out : float64[:, V, V]
        Receives the symmetric matrix of dot products of every run.

    """
    for run in range(len(bounds)):
        source_gram(base, vectors, codes, bounds[run, 0], bounds[run, 1], out[run])


@njit(nogil=True, cache=True)
def mix_sources(base, vectors, codes, coefficients, out, out_code, nonfinite):  # type: ignore[no-untyped-def]
    """Combine stored tensors linearly, with one set of coefficients, for all elements of `out`.

    Parameters
    ----------
    base : tuple of uint8[:]
        Stored bytes of the base model if task vectors are combined and added to it; else empty.
    vectors : tuple of uint8[:]
        Stored bytes of the models; all arrays are of one numba type.
    codes : int64[:]
        Dtype codes of the base model, if it is there, and of the models.
    coefficients : float64[:]
        The coefficient of every model.
    out : uint8[:]
        Receives the stored bytes of the result.
    out_code : int
        Dtype code of the result.
    nonfinite : int64[:]
        Number of NaN and infinite elements of each source, which the kernel adds to.

    Returns
    -------
    int
        The number of elements of the output that are not finite.

    """
    sources, adds = base + vectors, len(base) > 0
    lines, result = np.empty((len(sources), PART), np.float32), np.empty(PART, np.float32)
    as_stored = out_code in (BF16, F32) and np.all(codes == out_code)
    overflowed = 0
    length = len(out) // ITEMSIZES[out_code]
    for start in range(0, length, PART):
        stop = min(start + PART, length)
        count = stop - start
        if as_stored and count == PART and mix_stored(base, vectors, out_code, coefficients, start, stop, out):
            continue
        _decode_all(sources, codes, False, start, stop, lines)
        if adds:
            combine_and_add(sources, lines, coefficients, count, result)
        else:
            combine(sources, lines, coefficients, count, result)
        wrong = count_nonfinite(result[:count])
        if wrong:  # as it is wherever a source is not finite, because no sum leaves NaN or infinity behind
            _decode_all(sources, codes, False, start, stop, lines)
            for j in range(len(sources)):
                nonfinite[j] += count_nonfinite(lines[j, :count])
        overflowed += wrong + encode(result, out_code, start, stop, out)
    return overflowed
