"""Sums over one block in an order that is fixed: magnitudes and products, in float64.

The lanes are those of `statistics.sum_squares`. Products of two float32 are exact in float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_LANES = 32
_ROW = 4 * _LANES
TILE = 4096
"""Elements whose products are summed at a time, so that every source of a pair is in the nearest cache."""


@njit(nogil=True, cache=True)
def sum_magnitudes(values: np.ndarray) -> float:
    """Sum the absolute values of float32 in float64.

    Parameters
    ----------
    values : float32[:]
        Contiguous.

    Returns
    -------
    float
        The sum.

    """
    # Slow equivalent, up to the order: np.abs(values.astype(np.float64)).sum()
    lanes = np.zeros(_LANES, np.float64)
    rows = len(values) // _ROW
    for row in range(rows):
        part = values[row * _ROW : (row + 1) * _ROW]
        for lane in range(_LANES):
            v0 = np.abs(np.float64(part[lane]))
            v1 = np.abs(np.float64(part[lane + _LANES]))
            v2 = np.abs(np.float64(part[lane + 2 * _LANES]))
            v3 = np.abs(np.float64(part[lane + 3 * _LANES]))
            lanes[lane] += v0 + v1 + v2 + v3
    total = 0.0
    for lane in range(_LANES):
        total += lanes[lane]
    for value in values[rows * _ROW :]:
        total += np.abs(np.float64(value))
    return total


@njit(nogil=True, cache=True)
def sum_products(first: np.ndarray, second: np.ndarray) -> float:
    """Sum the products of float32 in float64: a dot product.

    Parameters
    ----------
    first, second : float32[:]
        Contiguous, of one length; they may be the same.

    Returns
    -------
    float
        The sum.

    """
    # Slow equivalent, up to the order: (first.astype(np.float64) * second.astype(np.float64)).sum()
    lanes = np.zeros(_LANES, np.float64)
    rows = len(first) // _ROW
    for row in range(rows):
        a = first[row * _ROW : (row + 1) * _ROW]
        b = second[row * _ROW : (row + 1) * _ROW]
        for lane in range(_LANES):
            p0 = np.float64(a[lane]) * np.float64(b[lane])
            p1 = np.float64(a[lane + _LANES]) * np.float64(b[lane + _LANES])
            p2 = np.float64(a[lane + 2 * _LANES]) * np.float64(b[lane + 2 * _LANES])
            p3 = np.float64(a[lane + 3 * _LANES]) * np.float64(b[lane + 3 * _LANES])
            lanes[lane] += p0 + p1 + p2 + p3
    total = 0.0
    for lane in range(_LANES):
        total += lanes[lane]
    for i in range(rows * _ROW, len(first)):
        total += np.float64(first[i]) * np.float64(second[i])
    return total


@njit(nogil=True, cache=True)
def gram(vectors: np.ndarray, count: int, out: np.ndarray) -> None:
    """Compute every dot product of some vectors, tile by tile.

    Parameters
    ----------
    vectors : float32[:, :]
        One line a vector.
    count : int
        Elements of each line to look at.
    out : float64[:, :]
        Receives the symmetric matrix of dot products.

    """
    out[:] = 0.0
    for start in range(0, count, TILE):
        stop = min(start + TILE, count)
        for i in range(len(vectors)):
            for j in range(i + 1):
                out[i, j] += sum_products(vectors[i, start:stop], vectors[j, start:stop])
    for i in range(len(vectors)):
        for j in range(i):
            out[j, i] = out[i, j]
