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


@njit(nogil=True, cache=True)
def subtract(values: np.ndarray, base: np.ndarray) -> None:
    """Turn decoded weights into a task vector in place: tau = W - W0, in float32.

    Parameters
    ----------
    values : float32[:]
        W, replaced by tau.
    base : float32[:]
        W0.

    """
    for i in range(len(values)):
        values[i] = values[i] - base[i]


@njit(nogil=True, cache=True)
def _push(heap: np.ndarray, size: int, rank: int) -> None:
    """Add a rank to a min-heap of `size` ranks."""
    child = size
    while child > 0:
        parent = (child - 1) // 2
        if heap[parent] <= rank:
            break
        heap[child] = heap[parent]
        child = parent
    heap[child] = rank


@njit(nogil=True, cache=True)
def _replace_least(heap: np.ndarray, size: int, rank: int) -> None:
    """Put a rank in place of the least one of a min-heap of `size` ranks."""
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if rank <= heap[child]:
            break
        heap[parent] = heap[child]
        parent = child
    heap[parent] = rank


@njit(nogil=True, cache=True)
def claim_blocks(
    tau: np.ndarray, n: int, m: int, mode: int, claims: np.ndarray, mask: np.ndarray, heap: np.ndarray
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
    heap : int64[:]
        Scratch of at least n elements.

    """
    bits = tau.view(np.uint32)
    for i in range(len(bits)):
        mask[i] = np.uint8(0)
    if n == 0:
        return
    for start in range(0, len(bits), m):
        stop = min(start + m, len(bits))
        held = 0
        for i in range(start, stop):
            magnitude = int(np.int64(bits[i] & _ABS))
            earlier = 0 if mode == IGNORE else int(np.int64(claims[i]))
            if magnitude == 0 or (mode == FORBID and earlier > 0):
                continue
            # One integer that orders candidates: 15 bits of claims, 31 of magnitude, 16 of position.
            rank = ((_MAX_CLAIMS - earlier) << 47) | (magnitude << 16) | (MAX_BLOCK - 1 - (i - start))
            if held < n:
                _push(heap, held, rank)
                held += 1
            elif rank > heap[0]:
                _replace_least(heap, held, rank)
        for place in range(held):
            kept = start + MAX_BLOCK - 1 - (heap[place] & (MAX_BLOCK - 1))
            mask[kept] = np.uint8(1)
            if mode != IGNORE:
                claims[kept] = np.uint16(claims[kept] + np.uint16(1))
