"""Random numbers that depend only on a key and a position: Philox4x32-7.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405. Seven rounds are
the fewest in their table 2 that pass every test of BigCrush. Words of 32 bits are held in integers of 64, because their
products take 64 bits; nothing overflows, even where the functions run as plain Python.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
ROUNDS = 7
"""Number of rounds of the bijection."""
WORDS = 4
"""Words in the output of one counter: a block."""
_LANES = 64
GROUP = WORDS * _LANES
"""Words of a group: 64 blocks that are computed together."""


@njit(nogil=True, cache=True, inline="always")
def _round(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Compute one round of the bijection: the new counter words."""
    p0 = _M0 * c0
    p1 = _M1 * c2
    return (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW


@njit(nogil=True, cache=True)
def _fill_groups(k0: np.uint64, k1: np.uint64, stream: np.uint64, first: np.uint64, words: np.ndarray) -> None:
    """Compute consecutive groups of blocks, from group `first` on, into words: uint32[groups * GROUP]."""
    low, high = stream & _LOW, stream >> _HALF
    keys = np.empty((ROUNDS, 2), np.uint32)
    for r in range(ROUNDS):
        keys[r, 0], keys[r, 1] = np.uint32(k0), np.uint32(k1)
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    lanes = np.empty((WORDS, _LANES), np.uint32)
    w0, w1, w2, w3 = lanes[0], lanes[1], lanes[2], lanes[3]
    flat = lanes.reshape(GROUP)
    for start in range(0, len(words), GROUP):
        begin = (first + np.uint64(start // GROUP)) * np.uint64(_LANES)
        # The rounds are written out, because LLVM makes vector code of a loop over blocks only if its body has no loop.
        for lane in range(_LANES):
            place = begin + np.uint64(lane)
            c0, c1, c2, c3 = place & _LOW, place >> _HALF, low, high
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, np.uint64(keys[0, 0]), np.uint64(keys[0, 1]))
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, np.uint64(keys[1, 0]), np.uint64(keys[1, 1]))
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, np.uint64(keys[2, 0]), np.uint64(keys[2, 1]))
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, np.uint64(keys[3, 0]), np.uint64(keys[3, 1]))
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, np.uint64(keys[4, 0]), np.uint64(keys[4, 1]))
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, np.uint64(keys[5, 0]), np.uint64(keys[5, 1]))
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, np.uint64(keys[6, 0]), np.uint64(keys[6, 1]))
            w0[lane] = np.uint32(c0)
            w1[lane] = np.uint32(c1)
            w2[lane] = np.uint32(c2)
            w3[lane] = np.uint32(c3)
        part = words[start : start + GROUP]
        for i in range(GROUP):
            part[i] = flat[i]


@njit(nogil=True, cache=True)
def _fill_part(key: np.ndarray, stream: int, group: int, skip: int, out: np.ndarray) -> None:
    """Write words of one group, from word `skip` of it on."""
    words = np.empty(GROUP, np.uint32)
    _fill_groups(key[0], key[1], np.uint64(stream), np.uint64(group), words)
    out[:] = words[skip : skip + len(out)]


@njit(nogil=True, cache=True)
def random_words(key: np.ndarray, stream: int, start: int, out: np.ndarray) -> None:
    """Write consecutive random words of a stream.

    A stream consists of groups of 64 blocks; a group holds the first word of each of its blocks, then the second word
    of each, and so on. Word i of the stream is word i // 64 % 4 of the block with the counter (i // 256 * 64 + i % 64,
    stream).

    Parameters
    ----------
    key : uint64[2]
        The key, two words of 32 bits.
    stream : int
        Number of the stream: the upper 64 bits of the counter.
    start : int
        Position in the stream of the first word.
    out : uint32[:]
        Receives the words.

    """
    first, skip = start // GROUP, start % GROUP
    head = min(len(out), (GROUP - skip) % GROUP)
    whole = (len(out) - head) // GROUP * GROUP
    if head > 0:
        _fill_part(key, stream, first, skip, out[:head])
        first += 1
    _fill_groups(key[0], key[1], np.uint64(stream), np.uint64(first), out[head : head + whole])
    if head + whole < len(out):
        _fill_part(key, stream, first + whole // GROUP, 0, out[head + whole :])


@njit(nogil=True, cache=True)
def mark_random(words: np.ndarray, edge: float, values: np.ndarray, mask: np.ndarray) -> None:
    """Mark each value that is not zero with probability edge / 2^32: where its random word is below the edge.

    Parameters
    ----------
    words : uint32[:]
        A random word for each value.
    edge : float
        The edge, from 0 to 2^32.
    values : float32[:]
        The values.
    mask : uint8[:]
        Receives 1 for each value that is marked, else 0.

    """
    bits = values.view(np.uint32)
    for i in range(len(words)):
        mask[i] = np.uint8((np.float64(words[i]) < edge) & ((bits[i] & np.uint32(0x7FFFFFFF)) != 0))
