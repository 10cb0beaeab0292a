"""Counting and marking the strongest elements of a whole tensor, for models that choose without regard to each other.

The kernels count the same three digits of magnitude bits as those of `magnitude`, which serve models that see each
other's claims. Without claims the loops are simple enough to run at the speed of the memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.magnitude import DIGIT_BINS, DIGIT_SHIFTS

_ABS = np.uint32(0x7FFFFFFF)
_ONE = np.uint32(1)
_WAYS = 4
"""Histograms that take elements in turn, so that equal neighbours do not wait for one counter."""
_RUN = 64
"""Elements that are tested together: if none of them has the prefix, all are passed over."""


@njit(nogil=True, cache=True)
def _count_first(bits: np.ndarray, counts: np.ndarray) -> None:
    """Count the highest digit of every magnitude that is not zero."""
    shift = np.uint32(DIGIT_SHIFTS[0])
    ways = np.zeros((_WAYS, DIGIT_BINS[0]), np.uint32)
    whole = len(bits) // _WAYS * _WAYS
    for i in range(0, whole, _WAYS):
        for way in range(_WAYS):
            magnitude = np.uint32(bits[i + way] & _ABS)
            ways[way, magnitude >> shift] += _ONE if magnitude != 0 else np.uint32(0)
    for i in range(whole, len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        ways[0, magnitude >> shift] += _ONE if magnitude != 0 else np.uint32(0)
    for way in range(_WAYS):
        for place in range(DIGIT_BINS[0]):
            counts[place] += np.int64(ways[way, place])


@njit(nogil=True, cache=True)
def _count_later(bits: np.ndarray, digit: int, prefix: int, counts: np.ndarray) -> None:
    """Count a lower digit of the magnitudes that have the higher digits `prefix`.

    Few elements have them, so that most runs of elements are passed over whole.
    """
    above, shift = np.uint32(DIGIT_SHIFTS[digit - 1]), np.uint32(DIGIT_SHIFTS[digit])
    last = np.uint32(DIGIT_BINS[digit] - 1)
    wanted = np.uint32(prefix)
    ways = np.zeros((_WAYS, DIGIT_BINS[digit]), np.uint32)
    for first in range(0, len(bits), _RUN):
        run = bits[first : first + _RUN]
        found = np.uint32(0)
        for i in range(len(run)):
            found = np.uint32(found | np.uint32(np.uint32(np.uint32(run[i] & _ABS) >> above) == wanted))
        if found != 0:
            # The condition is added as a number, because processors would mispredict a branch.
            for i in range(len(run)):
                magnitude = np.uint32(run[i] & _ABS)
                place = np.uint32(np.uint32(magnitude >> shift) & last)
                ways[i % _WAYS, place] += np.uint32((magnitude != 0) & (np.uint32(magnitude >> above) == wanted))
    for way in range(_WAYS):
        for bin_ in range(DIGIT_BINS[digit]):
            counts[bin_] += np.int64(ways[way, bin_])


@njit(nogil=True, cache=True)
def count_magnitudes(values: np.ndarray, digit: int, prefix: int, counts: np.ndarray) -> None:
    """Count one digit of the magnitude bits of the values that are not zero.

    Parameters
    ----------
    values : float32[:]
        The values, contiguous.
    digit : int
        0, 1 or 2. For digit 0 all values are counted, for the others only those that have the higher digits `prefix`.
    prefix : int
        The higher digits; not read where `digit` is 0.
    counts : int64[:]
        Histogram of ``DIGIT_BINS[digit]`` bins, which the kernel adds to.

    """
    bits = values.view(np.uint32)
    if digit == 0:
        _count_first(bits, counts)
    else:
        _count_later(bits, digit, prefix, counts)


@njit(nogil=True, cache=True)
def mark_strongest(values: np.ndarray, threshold: int, ties: int, seen: int, mask: np.ndarray) -> int:
    """Mark the values with a magnitude above a threshold, and the first `ties` of the tensor at it; zeros never.

    Parameters
    ----------
    values : float32[:]
        The values, contiguous; fewer than 2^32.
    threshold : int
        The threshold, as magnitude bits.
    ties : int
        How many values of the tensor with just that magnitude are marked, lowest indices first.
    seen : int
        How many values of that magnitude come before these in the tensor.
    mask : uint8[:]
        Receives 1 for each value that is marked, else 0.

    Returns
    -------
    int
        `seen` plus the number of these values with just that magnitude.

    """
    bits = values.view(np.uint32)
    edge = np.uint32(threshold)
    equal = np.uint32(0)
    for i in range(len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        mask[i] = np.uint8(magnitude > edge)
        equal = np.uint32(equal + np.uint32((magnitude == edge) & (magnitude != 0)))
    here = int(np.int64(equal))
    room = min(max(ties - seen, 0), here)
    if room == 0:
        return seen + here
    for i in range(len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        if magnitude == edge and magnitude != 0:
            mask[i] = np.uint8(1)
            room -= 1
            if room == 0:
                break
    return seen + here
