"""Random masks that keep an element the more likely, the higher its magnitude ranks in its row (MAGPRUNE).

DELLA: https://arxiv.org/abs/2406.11617, section 3.1. Few elements need their exact rank: the position of an element in
a histogram of the row's magnitudes bounds its rank and thus its probability, and the random number mostly lies outside
of the bounds. The ranks of the other elements are found by counting; a row in which that would take long is sorted.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ABS = np.uint32(0x7FFFFFFF)
_ONE = np.uint32(1)
_SHORT_ROW = 1 << 14
_SHORT_SHIFT, _LONG_SHIFT = np.uint32(18), np.uint32(15)
BINS = 1 << 16
"""Most bins of the histogram of a row: 256 for each power of two, or 32 in rows of up to `_SHORT_ROW` elements."""
_MOST_MAGNITUDES = 64
"""A row is sorted if its undecided elements have more distinct magnitudes than this."""


@njit(nogil=True, cache=True, inline="always")
def _edge(low: float, step: float, rank: int) -> np.uint32:
    """Give the edge for a rank, low + rank * step rounded up: words below it keep the element of that rank."""
    return np.uint32(np.uint64(np.ceil(low + np.float64(rank) * step)))


@njit(nogil=True, cache=True)
def _count_below(bits: np.ndarray, magnitude: np.uint32) -> int:
    """Count the elements with a smaller magnitude."""
    found = np.uint32(0)
    for k in range(len(bits)):
        found = np.uint32(found + np.uint32(np.uint32(bits[k] & _ABS) < magnitude))
    return int(np.int64(found))


@njit(nogil=True, cache=True)
def _count_equal(bits: np.ndarray, magnitude: np.uint32) -> int:
    """Count the elements with the same magnitude."""
    found = np.uint32(0)
    for k in range(len(bits)):
        found = np.uint32(found + np.uint32(np.uint32(bits[k] & _ABS) == magnitude))
    return int(np.int64(found))


@njit(nogil=True, cache=True)
def _mark_sorted(bits: np.ndarray, low: float, step: float, words: np.ndarray, mask: np.ndarray) -> None:
    """Mark the elements of a row by their ranks, which a sort of magnitudes and indices finds."""
    keys = np.empty(len(bits), np.int64)
    for i in range(len(bits)):
        keys[i] = (np.int64(bits[i] & _ABS) << np.int64(32)) | np.int64(i)
    keys.sort()
    for rank in range(len(bits)):
        i = int(keys[rank] & np.int64(0xFFFFFFFF))
        mask[i] = np.uint8((words[i] < _edge(low, step, rank)) & ((bits[i] & _ABS) != 0))


@njit(nogil=True, cache=True)
def _mark_counted(
    bits: np.ndarray, low: float, step: float, words: np.ndarray, mask: np.ndarray, undecided: np.ndarray
) -> bool:
    """Mark the undecided elements, given by ascending indices, by their ranks, which are found by counting.

    Elements of equal magnitude are marked together. The function gives up, and returns false, where the undecided
    elements have more than `_MOST_MAGNITUDES` distinct magnitudes.
    """
    magnitudes = 0
    for first in range(len(undecided)):
        if undecided[first] < 0:
            continue
        if magnitudes == _MOST_MAGNITUDES:
            return False
        magnitudes += 1
        magnitude = np.uint32(bits[undecided[first]] & _ABS)
        rank, reached = _count_below(bits, magnitude), 0
        for other in range(first, len(undecided)):
            i = undecided[other]
            if i >= 0 and np.uint32(bits[i] & _ABS) == magnitude:
                rank += _count_equal(bits[reached:i], magnitude)
                reached = i
                mask[i] = np.uint8(words[i] < _edge(low, step, rank))
                undecided[other] = -1
    return True


@njit(nogil=True, cache=True)
def _make_edges(bits: np.ndarray, shift: np.uint32, low: float, step: float, bins: np.ndarray) -> tuple[int, int]:
    """Find, for every bin, the edges of the first and of the last element in it.

    The first line of `bins` receives the edges of the first elements, and the second line those of the last elements.
    The function returns the range of bins that hold elements.
    """
    counts, last = bins[0], bins[1]
    least, most = _ABS, np.uint32(0)
    for i in range(len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        least, most = min(least, magnitude), max(most, magnitude)
    for i in range(len(bits)):
        counts[np.uint32(np.uint32(bits[i] & _ABS) >> shift)] += _ONE
    rank = 0
    begin, end = int(np.int64(np.uint32(least >> shift))), int(np.int64(np.uint32(most >> shift))) + 1
    for bin_ in range(begin, end):
        here = int(np.int64(counts[bin_]))
        if here > 0:
            counts[bin_] = _edge(low, step, rank)
            rank += here
            last[bin_] = _edge(low, step, rank - 1)
    return begin, end


@njit(nogil=True, cache=True)
def _mark_row(bits: np.ndarray, low: float, step: float, words: np.ndarray, mask: np.ndarray, bins: np.ndarray) -> None:
    """Mark one row; `bins` is uint32[2, BINS], and its first line is all zero before and after."""
    shift = _SHORT_SHIFT if len(bits) <= _SHORT_ROW else _LONG_SHIFT
    begin, end = _make_edges(bits, shift, low, step, bins)
    surely, perhaps = bins[0], bins[1]
    undecided = np.empty(_MOST_MAGNITUDES + len(bits) // 8, np.int64)
    for i in range(len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        place = np.uint32(magnitude >> shift)
        keep = words[i] < surely[place]
        other = words[i] < perhaps[place]
        mask[i] = np.uint8((np.uint8(keep) | np.uint8(np.uint8(keep != other) << 1)) if magnitude != 0 else 0)
    found = 0
    for i in range(len(bits)):
        if mask[i] & 2:
            if found < len(undecided):
                undecided[found] = i
            found += 1
    bins[0, begin:end] = 0
    if found > len(undecided) or not _mark_counted(bits, low, step, words, mask, undecided[:found]):
        _mark_sorted(bits, low, step, words, mask)


@njit(nogil=True, cache=True)
def mark_by_rank(
    values: np.ndarray,
    row_length: int,
    probability: tuple[float, float],
    words: np.ndarray,
    mask: np.ndarray,
    bins: np.ndarray,
) -> None:
    """Mark the values of whole rows at random, with a probability that grows with the rank in the row.

    Of a row of n elements, the one of rank r is kept with probability density - epsilon + 2 epsilon r / (n - 1), or
    with probability density where n = 1. The smallest magnitude has rank 0, equal ones are ranked by index, and zeros
    are never kept.

    Parameters
    ----------
    values : float32[:]
        The values of whole rows.
    row_length : int
        Elements of a row, below 2^32.
    probability : (float, float)
        Density and epsilon; their sum and their difference are between 0 and 1.
    words : uint32[:]
        A random word for each value.
    mask : uint8[:]
        Receives 1 for each value that is kept, else 0.
    bins : uint32[2, BINS]
        Scratch memory; its first line must be all zero before, and is all zero after.

    """
    density, epsilon = probability
    whole = 4294967296.0
    low, step = (density - epsilon) * whole, 0.0
    if row_length > 1:
        step = 2.0 * epsilon * whole / (row_length - 1)
    else:
        low = density * whole
    bits = values.view(np.uint32)
    for begin in range(0, len(values), row_length):
        end = begin + row_length
        _mark_row(bits[begin:end], low, step, words[begin:end], mask[begin:end], bins)
