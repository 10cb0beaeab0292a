"""Counting a tensor's magnitudes against a bracket, in which the magnitude of a wanted rank is expected to lie."""

from __future__ import annotations

import numpy as np
from numba import njit

_ABS = np.uint32(0x7FFFFFFF)
_ONE = np.uint32(1)
_TILE = 4096
"""Elements that are marked before those that are inside are gathered."""
_GROUP = 8
"""Marks that are read as one word: if none is set, all are passed over."""

ABOVE, HIGH, LOW, NONZERO = range(4)
"""What the counts of a bracket are of: magnitudes above it, equal to its upper edge, equal to its lower edge, and all
that are not zero."""


@njit(nogil=True, cache=True)
def count_bracket(values, low, high, inside, counts):  # type: ignore[no-untyped-def]
    """Count magnitudes above a bracket and at its edges, and gather those strictly inside.

    Parameters
    ----------
    values : float32[:]
        The values, contiguous; fewer than 2^32.
    low, high : int
        The edges, as magnitude bits; 0 < low <= high.
    inside : uint32[:]
        Receives the magnitude bits of the values strictly inside, in order; it must have room for one more than there
        are values.
    counts : int64[4]
        Counts by `ABOVE`, `HIGH`, `LOW` and `NONZERO`, which the kernel adds to. If the edges are equal, both are
        counted.

    Returns
    -------
    int
        How many values are strictly inside.

    """
    bits = values.view(np.uint32)
    least, most = np.uint32(low), np.uint32(high)
    above, upper, lower, nonzero = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    marks = np.zeros(_TILE, np.uint8)
    groups = marks.view(np.uint64)
    place = 0
    for first in range(0, len(bits), _TILE):
        tile = bits[first : first + _TILE]
        for i in range(len(tile)):
            magnitude = np.uint32(tile[i] & _ABS)
            above = np.uint32(above + np.uint32(magnitude > most))
            upper = np.uint32(upper + np.uint32(magnitude == most))
            lower = np.uint32(lower + np.uint32(magnitude == least))
            nonzero = np.uint32(nonzero + np.uint32(magnitude != 0))
            marks[i] = np.uint8((magnitude > least) & (magnitude < most))
        for group in range(-(-len(tile) // _GROUP)):
            if groups[group] != 0:
                # The condition is added as a number, because processors would mispredict a branch.
                for i in range(group * _GROUP, min(len(tile), (group + 1) * _GROUP)):
                    inside[place] = np.uint32(tile[i] & _ABS)
                    place += int(np.int64(marks[i]))
    counts[ABOVE] += np.int64(above)
    counts[HIGH] += np.int64(upper)
    counts[LOW] += np.int64(lower)
    counts[NONZERO] += np.int64(nonzero)
    return place
