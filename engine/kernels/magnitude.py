"""Exact selection of a tensor's strongest candidates out of core: histograms of magnitude bits, then one rule.

The 31 magnitude bits of a float32 are taken as three digits of 11, 10 and 10 bits. Three passes of histograms, each
within the bin that the pass before has chosen, find the magnitude of the last element kept; the counts of the last
pass also say how many equal magnitudes each chunk holds, which settles ties by index. Digits are short so that a
chunk's histogram is a few kilobytes and the histograms of all chunks of any tensor can be held at once.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dovetail.engine.kernels.general import FORBID, IGNORE

DIGIT_SHIFTS = (20, 10, 0)
"""Lowest bit of each digit."""

DIGIT_BINS = (1 << 11, 1 << 10, 1 << 10)
"""Values of each digit."""

ALL_LEVELS = 1 << 15
"""A level above any number of claims: a rule with it keeps every candidate."""

NO_THRESHOLD = 0x7FFFFFFF
"""A threshold that no magnitude exceeds: a rule with it, level 0 and no ties keeps nothing."""

_ABS = np.uint32(0x7FFFFFFF)


@njit(nogil=True, cache=True)
def count_digits(
    tau: np.ndarray, mode: int, claims: np.ndarray, digit: int, level: int, prefix: int, counts: np.ndarray
) -> None:
    """Add the candidates' histogram of one digit of their magnitude bits.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mode : int
        `IGNORE`, `FORBID` or `MINIMIZE`, as for `claim_blocks`.
    claims : uint16[:]
        How many earlier models keep each element; ignored under `IGNORE`.
    digit : int
        0, 1 or 2. Digit 0 counts every candidate in the row of its claims; the others count in row 0 those that
        have `level` claims and whose higher bits are `prefix`.
    level, prefix : int
        See `digit`.
    counts : int64[:, :]
        Histograms, added to.

    """
    # Whether to count is data, not a branch: in fine-tunes every other change may be zero, which no processor guesses.
    shift = DIGIT_SHIFTS[digit]
    bins = DIGIT_BINS[digit]
    bits = tau.view(np.uint32)
    for i in range(len(bits)):
        magnitude = int(np.int64(bits[i] & _ABS))
        earlier = 0 if mode == IGNORE else int(np.int64(claims[i]))
        place = magnitude >> shift
        counted = (magnitude != 0) & ((mode != FORBID) | (earlier == 0))
        if digit == 0:
            counts[0 if mode == FORBID else earlier, place] += counted
        else:
            counted &= (earlier == level) & (place // bins == prefix)
            counts[0, place % bins] += counted


@njit(nogil=True, cache=True)
def claim_strongest(
    tau: np.ndarray,
    mode: int,
    claims: np.ndarray,
    rule: tuple[int, int, int],
    seen: int,
    mask: np.ndarray,
) -> int:
    """Keep the candidates that a rule picks, and claim them.

    A candidate is kept if it has fewer claims than the rule's level; or as many, and a magnitude above the
    threshold; or as many and just that magnitude, while fewer than `ties` such came before it in the tensor.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mode : int
        `IGNORE`, `FORBID` or `MINIMIZE`, as for `claim_blocks`.
    claims : uint16[:]
        How many earlier models keep each element; updated, except under `IGNORE`.
    rule : (int, int, int)
        Level, threshold (float32 bits) and ties.
    seen : int
        Ties of the tensor before these elements.
    mask : uint8[:]
        Receives 1 where this model keeps the element, else 0.

    Returns
    -------
    int
        `seen`, these elements' ties included.

    """
    level, threshold, ties = rule
    bits = tau.view(np.uint32)
    for i in range(len(bits)):
        magnitude = int(np.int64(bits[i] & _ABS))
        earlier = 0 if mode == IGNORE else int(np.int64(claims[i]))
        candidate = (magnitude != 0) & ((mode != FORBID) | (earlier == 0))
        tie = candidate & (earlier == level) & (magnitude == threshold)
        above = (earlier < level) | ((earlier == level) & (magnitude > threshold))
        keep = (candidate & above) | (tie & (seen < ties))
        seen += tie
        mask[i] = np.uint8(keep)
        if mode != IGNORE:
            claims[i] = np.uint16(claims[i] + np.uint16(keep))
    return seen


def find_place(counts: NDArray[np.int64], rank: int) -> tuple[int, int, int]:
    """Find the bin that holds the candidate of a given rank.

    Candidates are ordered by row, ascending, then by bin, descending.

    Parameters
    ----------
    counts
        Histograms, one row a level.
    rank
        Rank from 1 to the sum of `counts`.

    Returns
    -------
    level, bin, rest
        Row and bin, and the rank among the candidates of that bin.

    """
    ordered = counts[:, ::-1].ravel()
    cumulative = np.cumsum(ordered)
    place = int(np.searchsorted(cumulative, rank))
    level, reverse = divmod(place, counts.shape[1])
    before = int(cumulative[place] - ordered[place])
    return level, counts.shape[1] - 1 - reverse, rank - before
