"""Exact selection of the strongest candidates of a tensor that need not fit in memory.

The 31 magnitude bits of a float32 are read as three digits of 11, 10 and 10 bits. Three passes count the digits, each
pass only among the elements of the bin that the pass before has chosen; together they find the magnitude of the last
element to keep. The counts of the last pass also tell how many elements of just that magnitude each chunk has, and so
settle ties by index. The digits are short, so that the histogram of a chunk takes a few kilobytes and the histograms of
all chunks of a tensor can be held at once.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dovetail.engine.kernels.general import FORBID, IGNORE

DIGIT_SHIFTS = (20, 10, 0)
"""Position of the lowest bit of each digit."""

DIGIT_BINS = (1 << 11, 1 << 10, 1 << 10)
"""How many values each digit can have."""

ALL_LEVELS = 1 << 15
"""A level above any number of claims; a rule with this level keeps every candidate."""

NO_THRESHOLD = 0x7FFFFFFF
"""A threshold that no magnitude exceeds; a rule with it, with level 0 and without ties, keeps nothing."""

_ABS = np.uint32(0x7FFFFFFF)


@njit(nogil=True, cache=True)
def count_digits(
    tau: np.ndarray, mode: int, claims: np.ndarray, digit: int, level: int, prefix: int, counts: np.ndarray
) -> None:
    """Count one digit of the magnitude bits of the candidates.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mode : int
        `IGNORE`, `FORBID` or `MINIMIZE`, as for `claim_blocks` in `general`.
    claims : uint16[:]
        How many earlier models keep each element; not read under `IGNORE`.
    digit : int
        0, 1 or 2. For digit 0 every candidate is counted, in the row of `counts` that its number of claims gives
        (row 0 under `FORBID`). For the others only candidates with `level` claims and the higher digits `prefix` are
        counted, in row 0.
    level, prefix : int
        Which candidates are counted where `digit` is 1 or 2.
    counts : int64[:, :]
        Histograms, one in a row, which the kernel adds to.

    """
    # The condition is added as a number, not tested by a branch: in a fine-tune every other change may be zero, and
    # processors mispredict such a branch.
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
    """Keep the candidates that a rule picks, and claim them for the model.

    A candidate is kept if it has fewer claims than the level of the rule; or if it has as many, and a magnitude above
    the threshold; or if it has as many and just that magnitude, and fewer than `ties` of these come before it in the
    tensor.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mode : int
        `IGNORE`, `FORBID` or `MINIMIZE`, as for `claim_blocks` in `general`.
    claims : uint16[:]
        How many earlier models keep each element; the kernel adds this model's claims, except under `IGNORE`.
    rule : (int, int, int)
        The rule: level, threshold (magnitude bits) and ties.
    seen : int
        Number of ties in the tensor before these elements.
    mask : uint8[:]
        Receives 1 where this model keeps the element, else 0.

    Returns
    -------
    int
        `seen` plus the number of ties among these elements.

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
    """Find the bin of a histogram that holds the candidate of a given rank.

    Ranks go through the rows in ascending order and, within a row, through the bins in descending order.

    Parameters
    ----------
    counts
        Histograms, one row for each level.
    rank
        Rank of the candidate, from 1 to the sum of `counts`.

    Returns
    -------
    level, bin, rest
        The row, the bin, and the rank of the candidate among those of that bin, from 1.

    """
    ordered = counts[:, ::-1].ravel()
    cumulative = np.cumsum(ordered)
    place = int(np.searchsorted(cumulative, rank))
    level, reverse = divmod(place, counts.shape[1])
    before = int(cumulative[place] - ordered[place])
    return level, counts.shape[1] - 1 - reverse, rank - before
