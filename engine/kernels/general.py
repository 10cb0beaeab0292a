"""Choosing the elements that each model keeps under n:m sparsity, for all options and all block lengths.

The default options have a faster kernel, in `exclusive`; the kernels here give the same masks and serve every other
combination. They run model by model over one window, because a model's candidates depend on the claims of the models
before it.

CABS: https://arxiv.org/abs/2503.01874, algorithm 1.
"""

from __future__ import annotations

import numpy as np
from numba import njit

IGNORE, FORBID, MINIMIZE = range(3)
"""What the claim of an earlier model does to an element: nothing, as each model prunes alone; it is no candidate any
more; or it is a candidate that is chosen only after those with fewer claims."""

MAX_BLOCK = 1 << 16
"""Most elements of a block, because a rank holds the position in the block in 16 bits."""

_ABS = np.uint32(0x7FFFFFFF)
_MAX_CLAIMS = 0x7FFF
_SHORT = 8
_LONG = 256


@njit(nogil=True, cache=True)
def _pivot(ranks: np.ndarray, low: int, high: int) -> int:
    """Choose the rank by which ``ranks[low:high]`` is split: the median of three of them."""
    first, middle, last = low, (low + high) // 2, high - 1
    if high - low > _LONG:
        # The places depend on the values, so that an unlucky order of a long block does not take quadratic time.
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
        # Ranks not below the pivot go first. Every pair is swapped, because a branch would often be mispredicted.
        split = low
        for i in range(low, high):
            rank = ranks[i]
            ranks[i] = ranks[split]
            ranks[split] = rank
            split += rank >= pivot
        if split <= keep:
            low = split
            continue
        # The pivot is the least rank of the first part. It is moved to the end of that part and left out of the next
        # round, so that the part always shrinks.
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
    """Keep the n strongest candidates of every block of m elements, and claim them for the model.

    Candidates are the elements with a tau that is not zero; under `FORBID`, only those without a claim. They are chosen
    by fewer claims first, then by larger magnitude (compared as bits, so that NaN exceeds infinity), then by lower
    index. The last block may be short: of r elements it keeps at most min(n, r).

    Parameters
    ----------
    tau : float32[:]
        Task vector from the start of a block to the end of a block or of the tensor.
    n, m : int
        Number of elements to keep of each block, and elements of a block; ``0 <= n <= m <= MAX_BLOCK``.
    mode : int
        `IGNORE`, `FORBID` or `MINIMIZE`.
    claims : uint16[:]
        How many earlier models keep each element; the kernel adds this model's claims, except under `IGNORE`.
    mask : uint8[:]
        Receives 1 where this model keeps the element, else 0.
    ranks : int64[:]
        Scratch memory, of at least min(m, elements of tau) places.

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
            # One integer orders the candidates: 15 bits of claims, 31 of magnitude, 16 of position.
            ranks[count] = ((_MAX_CLAIMS - earlier) << 47) | (magnitude << 16) | (MAX_BLOCK - 1 - (i - start))
            # The condition is added as a number, not tested by a branch: where every other change is zero, processors
            # mispredict such a branch.
            count += (magnitude != 0) & ((mode != FORBID) | (earlier == 0))
        keep = min(n, count)
        _select(ranks, count, keep)
        for place in range(keep):
            kept = start + MAX_BLOCK - 1 - (ranks[place] & (MAX_BLOCK - 1))
            mask[kept] = np.uint8(1)
            if mode != IGNORE:
                claims[kept] = np.uint16(claims[kept] + np.uint16(1))
