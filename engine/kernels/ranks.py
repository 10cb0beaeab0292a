"""Random masks that keep an element the more likely, the higher its magnitude ranks in its row (MAGPRUNE).

DELLA: https://arxiv.org/abs/2406.11617, section 3.1. Magnitudes of a row become keys of 16 bits whose order is theirs,
and one histogram of the keys tells how many elements lie below each. Changes of models in bfloat16 or float16 have few
significant bits, so that a key says almost all of a magnitude: ranks are then exact at once (`keyed_ranks`). Other
magnitudes share keys, which bound their ranks, and few elements need more than these bounds (`binned_ranks`). Rows of
a few elements are compared pair by pair.

An element of rank r is kept if its random word is below low + r step. The word is an integer, so that this is the same
as being below that sum rounded up.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.binned_ranks import mark_binned
from dovetail.engine.kernels.keyed_ranks import FINEST, mark_keyed

_ABS, _LOWEST, _INFINITE = np.uint32(0x7FFFFFFF), np.uint32((1 << FINEST) - 1), np.uint32(0x7F800000)
_FEW = 48
"""Rows of up to so many elements are compared pair by pair."""
_MOST_ODD = 16
"""Magnitudes with more bits than a key are at most one of so many where ranks are exact at once."""
_SPREAD = 4
"""The histogram's range is at most so many bins an element where ranks are exact at once."""


@njit(nogil=True, cache=True)
def _mark_few(bits: np.ndarray, low: float, step: float, words: np.ndarray, mask: np.ndarray) -> None:
    """Mark a row of a few elements by counting, for each, those of lower rank."""
    for i in range(len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        rank = np.uint32(0)
        for k in range(i):
            rank = np.uint32(rank + np.uint32(np.uint32(bits[k] & _ABS) <= magnitude))
        for k in range(i + 1, len(bits)):
            rank = np.uint32(rank + np.uint32(np.uint32(bits[k] & _ABS) < magnitude))
        mask[i] = np.uint8((np.float64(words[i]) < low + np.float64(rank) * step) & (magnitude != 0))


@njit(nogil=True, cache=True)
def _survey(bits: np.ndarray) -> tuple[np.uint32, np.uint32, np.uint32]:
    """Give the least magnitude that is not zero, the greatest, and how many have more bits than a key."""
    least, most, odd = _ABS, np.uint32(0), np.uint32(0)
    for i in range(len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        least = min(least, magnitude if magnitude != 0 else _ABS)
        most = max(most, magnitude)
        odd = np.uint32(odd + np.uint32(np.uint32(magnitude & _LOWEST) != 0))
    return least, most, odd


@njit(nogil=True, cache=True)
def _mark_row(
    values: np.ndarray, low: float, step: float, words: np.ndarray, mask: np.ndarray, counts: np.ndarray
) -> None:
    """Mark one row of more than a few elements."""
    bits = values.view(np.uint32)
    least, most, odd = _survey(bits)
    first, last = np.uint32(least >> np.uint32(FINEST)), np.uint32(most >> np.uint32(FINEST))
    is_narrow = last <= first or int(last) - int(first) <= _SPREAD * len(bits)
    if most < _INFINITE and is_narrow and int(odd) * _MOST_ODD <= len(bits):
        mark_keyed(bits, int(odd), (int(first), int(last)), (low, step), words, mask, counts)
    else:
        mark_binned(values, most, (low, step), words, mask, counts)


@njit(nogil=True, cache=True)
def mark_by_rank(
    values: np.ndarray,
    row_length: int,
    probability: tuple[float, float],
    words: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray,
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
    counts : uint32[BINS]
        Scratch memory; it must be all zero before, and is all zero after.

    """
    density, epsilon = probability
    whole = 4294967296.0
    low, step = (density - epsilon) * whole, 0.0
    if row_length > 1:
        step = 2.0 * epsilon * whole / (row_length - 1)
    else:
        low = density * whole
    for begin in range(0, len(values), row_length):
        end = begin + row_length
        if row_length <= _FEW:
            _mark_few(values[begin:end].view(np.uint32), low, step, words[begin:end], mask[begin:end])
        else:
            _mark_row(values[begin:end], low, step, words[begin:end], mask[begin:end], counts)
