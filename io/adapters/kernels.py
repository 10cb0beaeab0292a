"""The arithmetic of adapters: adding a product of two thin matrices, and the norms that DoRA divides by.

The order of every sum is fixed, whatever part of a tensor is computed, so that results have the same bits for any
chunks. Multiplications and additions round one by one: nothing is fused or reordered.

Each kernel calls no other compiled one, so numba itself sees when cached code is out of date. The code is kept where
the engine keeps its own, or, without the engine, where numba keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

LANES = 8
"""Partial sums of a row's squares: element j goes to number ``j % LANES``."""


def _compiled(function: Callable[..., None]) -> Any:
    """Compile a kernel when it is first called: without the interpreter's lock, without fast-math."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to keep the code: no folder can be written
        return njit(nogil=True)(function)


@_compiled
def add_product(left: np.ndarray, right: np.ndarray, scale: np.float32, out: np.ndarray, first: int, row: int) -> None:
    """Add ``scale * (left @ right)`` to a block of a matrix.

    Element (i, j) becomes ``out + scale * (((0 + left[i, 0] * right[0, j]) + left[i, 1] * right[1, j]) + ...)``.

    Parameters
    ----------
    left : float32[:, :]
        Rows of the block by rank, contiguous.
    right : float32[:, :]
        Rank by columns of the block, contiguous.
    scale : float32
        Factor of the product.
    out : float32[:]
        The matrix, flat and contiguous.
    first : int
        Where in `out` the block begins.
    row : int
        Distance in `out` from a row of the block to the next.

    """
    rows, rank = left.shape
    width = right.shape[1]
    total = np.empty(width, np.float32)
    for i in range(rows):
        for j in range(width):
            total[j] = np.float32(0)
        # Four terms at a time keep the sums in registers; their order is that of one at a time.
        k = 0
        while k + 4 <= rank:
            f0, f1, f2, f3 = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
            r0, r1, r2, r3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            for j in range(width):
                total[j] = (((total[j] + f0 * r0[j]) + f1 * r1[j]) + f2 * r2[j]) + f3 * r3[j]
            k += 4
        while k < rank:
            f0, r0 = left[i, k], right[k]
            for j in range(width):
                total[j] = total[j] + f0 * r0[j]
            k += 1
        begin = first + i * row
        target = out[begin : begin + width]
        for j in range(width):
            target[j] = target[j] + scale * total[j]


@_compiled
def row_norms(values: np.ndarray, norms: np.ndarray) -> None:
    """Give the Euclidean norm of each row, summed in float64 and rounded once.

    Parameters
    ----------
    values : float32[:]
        Whole rows, flat and contiguous.
    norms : float32[:]
        Receives one norm a row.

    """
    rows = norms.size
    width = values.size // max(1, rows)
    lanes = np.empty(LANES, np.float64)
    whole = width // LANES * LANES
    for i in range(rows):
        line = values[i * width : (i + 1) * width]
        for lane in range(LANES):
            lanes[lane] = 0.0
        for j in range(0, whole, LANES):
            for lane in range(LANES):
                value = np.float64(line[j + lane])
                lanes[lane] += value * value
        for j in range(whole, width):
            value = np.float64(line[j])
            lanes[j - whole] += value * value
        total = 0.0
        for lane in range(LANES):
            total += lanes[lane]
        norms[i] = np.float32(np.sqrt(total))


@_compiled
def add_column_squares(values: np.ndarray, totals: np.ndarray) -> None:
    """Add the squares of whole rows, in their order, to one float64 total a column.

    Parameters
    ----------
    values : float32[:]
        Whole rows, flat and contiguous.
    totals : float64[:]
        One total a column.

    """
    width = totals.size
    for i in range(values.size // max(1, width)):
        line = values[i * width : (i + 1) * width]
        for j in range(width):
            value = np.float64(line[j])
            totals[j] += value * value


def compile_all() -> None:
    """Run every kernel once, on next to nothing, so that it is compiled or loaded."""
    thin, out = np.zeros((1, 1), np.float32), np.zeros(1, np.float32)
    add_product(thin, thin, np.float32(1), out, 0, 1)
    row_norms(out, np.zeros(1, np.float32))
    add_column_squares(out, np.zeros(1, np.float64))
