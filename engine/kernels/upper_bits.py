"""Histograms of magnitudes by their upper and lower bits, which together tell the energy of the strongest elements.

The histogram has a bin for every value of the upper 15 magnitude bits, which are those of a bfloat16. The least
magnitude of a bin has zeros for its lower 16 bits. Elements of just that magnitude are *even*: their number says all
about them. The others are *uneven*, and their squares are summed. Every uneven element of a bin is larger than the even
ones, so that the energy of the strongest elements is exact wherever the cut falls among even ones, as it mostly does
for models that were stored in 16 bits. Where it does not, the lower bits are counted in those bins, in a second sweep.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BINS = 1 << 15
"""Bins of a histogram by upper magnitude bits."""

LOWER_BINS = 1 << 16
"""Bins of a histogram by lower magnitude bits."""

_ABS = np.uint32(0x7FFFFFFF)
_LOW = np.uint32(0xFFFF)
_ONE = np.uint32(1)
_SPARE = BINS - 64
"""First of the bins, all of them of NaN, in which zeros are counted until all elements are."""
_WAYS = 8
_RUN = 64
"""Elements that are tested together: if none of them is in a bin, all are passed over."""


@njit(nogil=True, cache=True)
def count_upper(tau, counts, uneven, energies):  # type: ignore[no-untyped-def]
    """Sort changes into bins by the upper bits of their magnitudes.

    Parameters
    ----------
    tau : float32[:]
        Finite changes.
    counts, uneven : uint32[BINS]
        The kernel adds to them how many elements are in each bin, and how many of them are uneven.
    energies : float64[BINS]
        The kernel adds to it the squares of the uneven elements.

    """
    bits = tau.view(np.uint32)
    for i in range(len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        # Zeros take turns in bins that finite values leave empty: else each would wait until the last is counted.
        place = magnitude >> np.uint32(16) if magnitude != 0 else np.uint32(_SPARE + (i & (_WAYS - 1)))
        counts[place] += _ONE
        if (magnitude & _LOW) != 0:
            uneven[place] += _ONE
            value = np.float64(tau[i])
            energies[place] += value * value
    for way in range(_WAYS):
        counts[0] += counts[_SPARE + way]
        counts[_SPARE + way] = np.uint32(0)


@njit(nogil=True, cache=True)
def count_lower(tau, place, counts):  # type: ignore[no-untyped-def]
    """Count the lower magnitude bits of those changes that are in one bin by the upper ones.

    Parameters
    ----------
    tau : float32[:]
        Finite changes.
    place : int
        The bin.
    counts : uint32[LOWER_BINS]
        The kernel adds to it.

    """
    bits = tau.view(np.uint32)
    wanted = np.uint32(place)
    for first in range(0, len(bits), _RUN):
        run = bits[first : first + _RUN]
        found = np.uint32(0)
        for i in range(len(run)):
            found = np.uint32(found | np.uint32(np.uint32(np.uint32(run[i] & _ABS) >> np.uint32(16)) == wanted))
        if found != 0:
            for i in range(len(run)):
                if np.uint32(np.uint32(run[i] & _ABS) >> np.uint32(16)) == wanted:
                    counts[run[i] & _LOW] += _ONE
