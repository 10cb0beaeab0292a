"""Which elements of a whole tensor are the strongest, where every model chooses alone: counting and marking.

The same three digits of magnitude bits as in `magnitude`, without claims, written so that both loops run at the speed
of the memory: `magnitude` serves models that see each other's claims.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.magnitude import DIGIT_BINS, DIGIT_SHIFTS

_ABS = np.uint32(0x7FFFFFFF)
_ONE = np.uint32(1)
_WAYS = 4
"""Histograms filled in turn, so that equal neighbours do not wait for each other's counter."""
_RUN = 64
"""Elements looked at together for one that matters."""


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
    """Count a lower digit of the magnitudes whose higher digits are `prefix`: few, so whole runs are passed over."""
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
            # Whether to count is data, not a branch that no processor could guess.
            for i in range(len(run)):
                magnitude = np.uint32(run[i] & _ABS)
                place = np.uint32(np.uint32(magnitude >> shift) & last)
                ways[i % _WAYS, place] += np.uint32((magnitude != 0) & (np.uint32(magnitude >> above) == wanted))
    for way in range(_WAYS):
        for bin_ in range(DIGIT_BINS[digit]):
            counts[bin_] += np.int64(ways[way, bin_])


@njit(nogil=True, cache=True)
def count_magnitudes(values: np.ndarray, digit: int, prefix: int, counts: np.ndarray) -> None:
    """Add the histogram of one digit of the magnitude bits of the values that are not zero.

    Parameters
    ----------
    values : float32[:]
        The values, contiguous.
    digit : int
        0, 1 or 2. Digit 0 counts all; the others count those whose higher bits are `prefix`.
    prefix : int
        See `digit`.
    counts : int64[:]
        ``DIGIT_BINS[digit]`` counts, added to.

    """
    bits = values.view(np.uint32)
    if digit == 0:
        _count_first(bits, counts)
    else:
        _count_later(bits, digit, prefix, counts)


@njit(nogil=True, cache=True)
def mark_strongest(values: np.ndarray, threshold: int, ties: int, seen: int, mask: np.ndarray) -> int:
    """Mark the values above a threshold, and the first `ties` of the tensor that are just there; never a zero.

    Parameters
    ----------
    values : float32[:]
        The values, contiguous; fewer than 2^32.
    threshold : int
        Magnitude bits.
    ties : int
        How many values of just that magnitude count, lowest indices first.
    seen : int
        Values of that magnitude before these.
    mask : uint8[:]
        Receives 1 or 0 for each value.

    Returns
    -------
    int
        `seen`, these values included.

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
