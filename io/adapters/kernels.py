"""The compiled arithmetic of adapters: adding the product of two thin matrices, and the norms by which DoRA divides.

The order of every sum is fixed and does not depend on which part of a tensor is computed, so that results have the same
bits for any chunks. Every multiplication and every addition is rounded by itself: nothing is fused or reordered.

No kernel here calls another compiled one, so that numba notices by itself when cached code is out of date. Compiled
code is kept where the engine keeps the code of its kernels or, without the engine, where numba keeps it by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

LANES = 8
"""Partial sums of the squares of a row: element j is added to sum ``j % LANES``."""


def _compiled(function: Callable[..., None]) -> Any:
    """Let numba compile a kernel at its first call, to run without the interpreter's lock and without fast-math."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no writable folder to keep the code in
        return njit(nogil=True)(function)


@_compiled
def add_product(left: np.ndarray, right: np.ndarray, scale: np.float32, out: np.ndarray, first: int, row: int) -> None:
    """Add ``scale * (left @ right)`` to a block of a matrix (LoRA: https://arxiv.org/abs/2106.09685, equation 3).

    Element (i, j) becomes ``out + scale * (((0 + left[i, 0] * right[0, j]) + left[i, 1] * right[1, j]) + ...)``.

    Parameters
    ----------
    left : float32[:, :]
        The left factor: rows of the block by rank, contiguous.
    right : float32[:, :]
        The right factor: rank by columns of the block, contiguous.
    scale : float32
        Factor of the product.
    out : float32[:]
        The matrix, flattened and contiguous; the kernel adds to it.
    first : int
        Index in `out` of the first element of the block.
    row : int
        Elements of `out` from one row of the block to the next.

    """
    rows, rank = left.shape
    width = right.shape[1]
    total = np.empty(width, np.float32)
    for i in range(rows):
        for j in range(width):
            total[j] = np.float32(0)
        # Four terms are added at a time, to keep the sums in registers, but in the order of the slow equivalent:
        # for k in range(rank): total += left[i, k] * right[k]
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
    """Compute the Euclidean norm of each row, summed in float64 and rounded once.

    Parameters
    ----------
    values : float32[:]
        Whole rows, flattened and contiguous.
    norms : float32[:]
        Receives the norm of each row.

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
    """Add the squares of whole rows, one row after another, to the totals of their columns.

    Parameters
    ----------
    values : float32[:]
        Whole rows, flattened and contiguous.
    totals : float64[:]
        The total of each column, which the kernel adds to.

    """
    width = totals.size
    for i in range(values.size // max(1, width)):
        line = values[i * width : (i + 1) * width]
        for j in range(width):
            value = np.float64(line[j])
            totals[j] += value * value


def compile_all() -> None:
    """Run every kernel once, on one element, so that it is compiled, or loaded from the cache, before it is needed."""
    thin, out = np.zeros((1, 1), np.float32), np.zeros(1, np.float32)
    add_product(thin, thin, np.float32(1), out, 0, 1)
    row_norms(out, np.zeros(1, np.float32))
    add_column_squares(out, np.zeros(1, np.float64))
