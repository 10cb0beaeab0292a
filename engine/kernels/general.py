"""Which elements each model keeps under n:m sparsity, for every combination of options and any block length.

The fast path of the default options is in `exclusive`; these kernels give the same masks and handle the rest. They
work model by model over one window: a model's candidates depend on the claims of the models before it.

CABS: https://arxiv.org/abs/2503.01874, algorithm 1.
"""

from __future__ import annotations

import numpy as np
from numba import njit

IGNORE, FORBID, MINIMIZE = range(3)
"""What an earlier model's claim means: nothing (each model prunes alone), not a candidate, or a later choice."""

MAX_BLOCK = 1 << 16
"""Longest block, as a rank packs the position in a block into 16 bits."""

_ABS = np.uint32(0x7FFFFFFF)
_MAX_CLAIMS = 0x7FFF
_SHORT = 8
_LONG = 256


@njit(nogil=True, cache=True)
def _pivot(ranks: np.ndarray, low: int, high: int) -> int:
    """Choose a rank that splits ``ranks[low:high]``: the median of three."""
    first, middle, last = low, (low + high) // 2, high - 1
    if high - low > _LONG:
        # Places that no order of the elements can foresee, so that long blocks never take quadratic time.
        seed = ((ranks[low] >> 16) ^ ranks[last]) & 0xFFFF
        first = low + (seed * 40503 >> 4) % (high - low)
        middle = low + (seed * 30011 >> 4) % (high - low)
    a, b, c = ranks[first], ranks[middle], ranks[last]
    return int(max(min(a, b), min(max(a, b), c)))


@njit(nogil=True, cache=True)
def _select(ranks: np.ndarray, count: int, keep: int) -> None:
    """Move the `keep` greatest of the first `count` ranks to the front, by quickselect; all ranks differ."""
    low, high = 0, count
    while low < keep < high:
        if high - low <= _SHORT:
            for i in range(low + 1, high):
                rank, place = ranks[i], i
                while place > low and ranks[place - 1] < rank:
                    ranks[place] = ranks[place - 1]
                    place -= 1
                ranks[place] = rank
            return
        pivot = _pivot(ranks, low, high)
        # What is not less than the pivot goes first; every swap is made, as a branch would be guessed wrongly.
        split = low
        for i in range(low, high):
            rank = ranks[i]
            ranks[i] = ranks[split]
            ranks[split] = rank
            split += rank >= pivot
        if split <= keep:
            low = split
            continue
        # The pivot is the least of the first part. It moves to the end and out, so that the part always shrinks.
        high = split - 1
        for i in range(low, high):
            if ranks[i] == pivot:
                ranks[i] = ranks[high]
                ranks[high] = pivot
                break


@njit(nogil=True, cache=True)
def claim_blocks(
    tau: np.ndarray, n: int, m: int, mode: int, claims: np.ndarray, mask: np.ndarray, ranks: np.ndarray
) -> None:
    """Keep the n strongest candidates in every block of m elements, and claim them.

    Candidates are the elements with non-zero tau (under `FORBID`, those not yet claimed). Fewer claims come first,
    then larger magnitudes (compared as bits, so that NaN exceeds infinity), then lower indices. The last block may
    be short: of its r elements it keeps at most min(n, r).

    Parameters
    ----------
    tau : float32[:]
        Task vector from the start of a block to the end of a block or of the tensor.
    n, m : int
        Elements kept in each block, and elements of a block; ``0 <= n <= m <= MAX_BLOCK``.
    mode : int
        `IGNORE`, `FORBID` or `MINIMIZE`.
    claims : uint16[:]
        How many earlier models kept each element; updated, except under `IGNORE`.
    mask : uint8[:]
        Receives 1 where this model keeps the element, else 0.
    ranks : int64[:]
        Scratch of at least min(m, elements) places.

    """
    bits = tau.view(np.uint32)
    for i in range(len(bits)):
        mask[i] = np.uint8(0)
    for start in range(0, len(bits), m):
        stop = min(start + m, len(bits))
        count = 0
        for i in range(start, stop):
            magnitude = int(np.int64(bits[i] & _ABS))
            earlier = 0 if mode == IGNORE else int(np.int64(claims[i]))
            # One integer that orders candidates: 15 bits of claims, 31 of magnitude, 16 of position.
            ranks[count] = ((_MAX_CLAIMS - earlier) << 47) | (magnitude << 16) | (MAX_BLOCK - 1 - (i - start))
            # Whether it counts is data, not a branch: every other change may be zero, which no processor guesses.
            count += (magnitude != 0) & ((mode != FORBID) | (earlier == 0))
        keep = min(n, count)
        _select(ranks, count, keep)
        for place in range(keep):
            kept = start + MAX_BLOCK - 1 - (ranks[place] & (MAX_BLOCK - 1))
            mask[kept] = np.uint8(1)
            if mode != IGNORE:
                claims[kept] = np.uint16(claims[kept] + np.uint16(1))
