"""Sums of squares, magnitudes and products of float32 values, in float64 and in a fixed order of additions.

The order belongs to the result: interleaved partial sums ("lanes") first, then the lanes in order, then the elements
that do not fill a row of lanes. Squares and products of two float32 values are exact in float64, because two mantissas
of 24 bits fit in one of 53.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

LANES = 32
"""Partial sums in float64; enough of them to hide the latency of an addition at any vector width."""

ROW = 4 * LANES
"""Elements added to the lanes at a time: four to each lane, because loading and storing the lanes costs the most."""

TILE = 4096
"""Elements whose products are added up, lanes and all, before the next ones are looked at: it belongs to the order."""


# The terms of the sums. Those of one vector leave b alone, so that the compiler drops the second load of each element.


@njit(nogil=True, cache=True, inline="always")
def _square(a: float, b: float) -> float:
    return a * a


@njit(nogil=True, cache=True, inline="always")
def _magnitude(a: float, b: float) -> float:
    return abs(a)


@njit(nogil=True, cache=True, inline="always")
def _product(a: float, b: float) -> float:
    return a * b


@njit(nogil=True, cache=True, inline="always")
def _sum_terms(first: np.ndarray, second: np.ndarray, term: Callable[[float, float], float]) -> float:
    """Sum ``term(first[i], second[i])`` over all i, in the order that the module describes.

    The function is inlined where it is called, so that each sum is a loop of vector code without calls.
    """
    lanes = np.zeros(LANES, np.float64)
    rows = len(first) // ROW
    for row in range(rows):
        a = first[row * ROW : (row + 1) * ROW]
        b = second[row * ROW : (row + 1) * ROW]
        for lane in range(LANES):
            t0 = term(np.float64(a[lane]), np.float64(b[lane]))
            t1 = term(np.float64(a[lane + LANES]), np.float64(b[lane + LANES]))
            t2 = term(np.float64(a[lane + 2 * LANES]), np.float64(b[lane + 2 * LANES]))
            t3 = term(np.float64(a[lane + 3 * LANES]), np.float64(b[lane + 3 * LANES]))
            lanes[lane] += t0 + t1 + t2 + t3
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    for i in range(rows * ROW, len(first)):
        total += term(np.float64(first[i]), np.float64(second[i]))
    return total


@njit(nogil=True, cache=True)
def sum_squares(values: np.ndarray) -> float:
    """Sum the squares of float32 values in float64.

    Parameters
    ----------
    values : float32[:]
        The values, contiguous.

    Returns
    -------
    float
        The sum.

    """
    # Slow equivalent, but for the order of additions: (values.astype(np.float64) ** 2).sum()
    return _sum_terms(values, values, _square)


@njit(nogil=True, cache=True)
def sum_magnitudes(values: np.ndarray) -> float:
    """Sum the absolute values of float32 values in float64.

    Parameters
    ----------
    values : float32[:]
        The values, contiguous.

    Returns
    -------
    float
        The sum.

    """
    # Slow equivalent, but for the order of additions: np.abs(values.astype(np.float64)).sum()
    return _sum_terms(values, values, _magnitude)


@njit(nogil=True, cache=True)
def sum_products(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the dot product of two float32 vectors in float64.

    Parameters
    ----------
    first, second : float32[:]
        Two vectors of one length, contiguous; they may be the same.

    Returns
    -------
    float
        The sum of the products.

    """
    # Slow equivalent, but for the order of additions: (first.astype(np.float64) * second.astype(np.float64)).sum()
    return _sum_terms(first, second, _product)


@njit(nogil=True, cache=True, inline="always")
def _opposed(a: float, b: float) -> float:
    product = a * b
    return -product if product < 0.0 else 0.0


@njit(nogil=True, cache=True)
def sum_opposed(first: np.ndarray, second: np.ndarray) -> float:
    """Sum the magnitudes of the negative products of two float32 vectors: what they take from each other.

    Parameters
    ----------
    first, second : float32[:]
        Two vectors of one length, contiguous.

    Returns
    -------
    float
        The sum; with `sum_products`, it tells the sum of the positive products too.

    """
    # Slow equivalent, but for the order of additions: np.maximum(-(first * second), 0).sum() in float64
    return _sum_terms(first, second, _opposed)
