"""Counts over one tile: NaN and infinite values, marks of kept elements, and marks that two models share."""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.bits import count_ones

_EXP = np.uint32(0x7F800000)
_ABS = np.uint32(0x7FFFFFFF)


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
        How many values are NaN or infinite.

    """
    bits = values.view(np.uint32)
    found = np.uint32(0)
    for i in range(len(bits)):
        found = np.uint32(found + np.uint32(np.uint32(bits[i] & _EXP) == _EXP))
    return int(np.int64(found))


@njit(nogil=True, cache=True)
def mark_nonzero(values: np.ndarray, mask: np.ndarray) -> None:
    """Mark the values that are not zero, of either sign.

    Parameters
    ----------
    values : float32[:]
        Contiguous.
    mask : uint8[:]
        Receives 1 for each value that is not zero, else 0.

    """
    bits = values.view(np.uint32)
    for i in range(len(bits)):
        mask[i] = np.uint8(np.uint32(bits[i] & _ABS) != np.uint32(0))


@njit(nogil=True, cache=True)
def count_pairs(masks: np.ndarray, count: int, pairs: np.ndarray) -> None:
    """Count, for every pair of models, the elements that both keep.

    Parameters
    ----------
    masks : uint8[:, :]
        One mask of zeros and ones in each row.
    count : int
        Elements of each row that take part, from the first on; fewer than 2^32.
    pairs : int64[:, :]
        The kernel adds to ``pairs[i, j]`` the elements that both mask i and mask j mark.

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


@njit(nogil=True, cache=True)
def count_common(bits: np.ndarray, count: int, pairs: np.ndarray) -> None:
    """Do as `count_pairs` does, for marks of one bit.

    Parameters
    ----------
    bits : uint8[:, :]
        Marks of one bit in each row, which reach to whole words of 64; those from `count` on are 0.
    count : int
        Elements of each row that take part, from the first on.
    pairs : int64[:, :]
        The kernel adds to ``pairs[i, j]`` the elements that both mask i and mask j mark.

    """
    words = -(-count // 64)
    for i in range(len(bits)):
        for j in range(i + 1):
            first, second = bits[i].view(np.uint64)[:words], bits[j].view(np.uint64)[:words]
            found = 0
            for word in range(words):
                found += count_ones(first[word] & second[word])
            pairs[i, j] += found
            if i != j:
                pairs[j, i] += found
