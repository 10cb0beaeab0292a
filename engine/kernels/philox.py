"""Random numbers that depend on nothing but a key and a place: Philox4x32-10.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405, table 2. Words
are 32 bits in 64-bit lanes: the products need them, and nothing overflows, also not as plain Python.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
WORDS = 4
"""Words of a block."""
_LANES = 64
"""Blocks computed at a time."""


@njit(nogil=True, cache=True, inline="always")
def _round(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """One round of the bijection."""
    p0 = _M0 * c0
    p1 = _M1 * c2
    return (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW


@njit(nogil=True, cache=True)
def _fill_blocks(k0: np.uint64, k1: np.uint64, stream: np.uint64, first: np.uint64, words: np.ndarray) -> None:
    """Compute consecutive blocks of counters; ``words`` is uint32[blocks, 4]."""
    low, high = stream & _LOW, stream >> _HALF
    lanes = np.empty((WORDS, _LANES), np.uint64)
    w0, w1, w2, w3 = lanes[0], lanes[1], lanes[2], lanes[3]
    for start in range(0, len(words), _LANES):
        for lane in range(_LANES):
            place = first + np.uint64(start + lane)
            w0[lane], w1[lane], w2[lane], w3[lane] = place & _LOW, place >> _HALF, low, high
        # Rounds outside, lanes inside: each round is vector code over independent blocks.
        a0, a1 = k0, k1
        for _ in range(10):
            for lane in range(_LANES):
                w0[lane], w1[lane], w2[lane], w3[lane] = _round(w0[lane], w1[lane], w2[lane], w3[lane], a0, a1)
            a0, a1 = (a0 + _W0) & _LOW, (a1 + _W1) & _LOW
        for lane in range(min(_LANES, len(words) - start)):
            words[start + lane, 0] = np.uint32(w0[lane])
            words[start + lane, 1] = np.uint32(w1[lane])
            words[start + lane, 2] = np.uint32(w2[lane])
            words[start + lane, 3] = np.uint32(w3[lane])


@njit(nogil=True, cache=True)
def random_words(key: np.ndarray, stream: int, start: int, out: np.ndarray) -> None:
    """Give consecutive words of a stream: word i is word i % 4 of the block of counter (i // 4, stream).

    Parameters
    ----------
    key : uint64[2]
        The key's two words of 32 bits.
    stream : int
        Which stream: the upper 64 bits of the counter.
    start : int
        First word.
    out : uint32[:]
        Receives the words.

    """
    first = start // WORDS
    blocks = (start + len(out) + WORDS - 1) // WORDS - first
    words = np.empty((blocks, WORDS), np.uint32)
    _fill_blocks(key[0], key[1], np.uint64(stream), np.uint64(first), words)
    skip = start - first * WORDS
    out[:] = words.reshape(blocks * WORDS)[skip : skip + len(out)]


@njit(nogil=True, cache=True)
def mark_random(words: np.ndarray, edge: float, values: np.ndarray, mask: np.ndarray) -> None:
    """Mark each value that is not zero where its word is below ``edge``: with probability edge / 2^32.

    Parameters
    ----------
    words : uint32[:]
        Random words.
    edge : float
        From 0 to 2^32.
    values : float32[:]
        As many values.
    mask : uint8[:]
        Receives 1 or 0 for each.

    """
    bits = values.view(np.uint32)
    for i in range(len(words)):
        mask[i] = np.uint8((np.float64(words[i]) < edge) & ((bits[i] & np.uint32(0x7FFFFFFF)) != 0))
