"""Counts and sums of squares over one tile; every loop vectorises without fast-math."""

from __future__ import annotations

import numpy as np
from numba import njit

_LANES = 32
"""Independent float64 sums; enough to hide the latency of an addition at any vector width."""

_ROW = 4 * _LANES
"""Elements added to the lanes at a time; four to each, as loading and storing the lanes is what costs."""

_EXP = np.uint32(0x7F800000)
_ABS = np.uint32(0x7FFFFFFF)


@njit(nogil=True, cache=True)
def sum_squares(values: np.ndarray) -> float:
    """Sum the squares of float32 values in float64.

    The order of the additions is fixed: interleaved lanes, then those in order, then the rest. Products are exact
    (two 24-bit mantissas fit in 53 bits).

    Parameters
    ----------
    values : float32[:]
        Contiguous.

    Returns
    -------
    float
        The sum.

    """
    # Slow equivalent, up to the order: (values.astype(np.float64) ** 2).sum()
    lanes = np.zeros(_LANES, np.float64)
    rows = len(values) // _ROW
    for row in range(rows):
        part = values[row * _ROW : (row + 1) * _ROW]
        for lane in range(_LANES):
            v0 = np.float64(part[lane])
            v1 = np.float64(part[lane + _LANES])
            v2 = np.float64(part[lane + 2 * _LANES])
            v3 = np.float64(part[lane + 3 * _LANES])
            lanes[lane] += v0 * v0 + v1 * v1 + v2 * v2 + v3 * v3
    total = 0.0
    for lane in range(_LANES):
        total += lanes[lane]
    for value in values[rows * _ROW :]:
        total += np.float64(value) * np.float64(value)
    return total


@njit(nogil=True, cache=True)
def count_nonfinite(values: np.ndarray) -> int:
    """Count NaN and infinite values.

    Parameters
    ----------
    values : float32[:]
        Fewer than 2^32 values, contiguous.

    Returns
    -------
    int
        How many there are.

    """
    bits = values.view(np.uint32)
    found = np.uint32(0)
    for i in range(len(bits)):
        found = np.uint32(found + np.uint32(np.uint32(bits[i] & _EXP) == _EXP))
    return int(np.int64(found))


@njit(nogil=True, cache=True)
def mark_nonzero(values: np.ndarray, mask: np.ndarray) -> None:
    """Set ``mask[i]`` to 1 where ``values[i]`` is not zero (of either sign), else to 0.

    Parameters
    ----------
    values : float32[:]
        Contiguous.
    mask : uint8[:]
        Receives as many marks.

    """
    bits = values.view(np.uint32)
    for i in range(len(bits)):
        mask[i] = np.uint8(np.uint32(bits[i] & _ABS) != np.uint32(0))


@njit(nogil=True, cache=True)
def count_pairs(masks: np.ndarray, count: int, pairs: np.ndarray) -> None:
    """Add to ``pairs[i, j]`` how many elements both mask i and mask j mark.

    Parameters
    ----------
    masks : uint8[:, :]
        One row of zeros and ones a model.
    count : int
        Elements of each row to look at; fewer than 2^32.
    pairs : int64[:, :]
        Symmetric counts, added to.

    """
    for i in range(len(masks)):
        for j in range(i + 1):
            first = masks[i, :count]
            second = masks[j, :count]
            found = np.uint32(0)
            for element in range(count):
                found = np.uint32(found + np.uint32(first[element] & second[element]))
            pairs[i, j] += np.int64(found)
            if i != j:
                pairs[j, i] += np.int64(found)
