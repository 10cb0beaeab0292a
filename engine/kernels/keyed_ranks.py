"""Exact ranks of a row whose magnitudes have few bits: those of the differences of two numbers in bfloat16.

The upper 16 bits of a magnitude are its key. Almost always the other 15 are zero, so that the elements of one key are
equal, and are ranked by index: one sweep counts the elements of every key, and a second gives each its place among the
elements before it. Those with more bits are odd: they are sorted, and come after the others of their key.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FINEST = 15
"""Bits of a magnitude that its key leaves out."""
SPARE = 0xFF80
"""First of the keys that no finite magnitude has."""
_WAYS = 64
"""Keys that zeros and odd elements take in turn, so that neighbours do not wait for one counter."""
_RUN = 32
"""Elements that are tested together for an odd one."""
_GROUP = 16
"""Bins that are tested together for elements."""
_ABS, _LOWEST = np.uint32(0x7FFFFFFF), np.uint32((1 << FINEST) - 1)
_SHIFT, _ONE = np.uint32(FINEST), np.uint32(1)
_INDEX, _KEY = np.int64(0xFFFFFFFF), np.int64(32 + FINEST)


@njit(nogil=True, cache=True)
def _make_keys(bits: np.ndarray, keys: np.ndarray) -> None:
    """Give each element its key; zeros and odd elements get some that are none."""
    for i in range(len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        is_apart = (magnitude == 0) | (np.uint32(magnitude & _LOWEST) != 0)
        keys[i] = np.uint16(np.uint32(SPARE + (i & (_WAYS - 1))) if is_apart else np.uint32(magnitude >> _SHIFT))


@njit(nogil=True, cache=True)
def _list_odd(bits: np.ndarray, odd: int) -> np.ndarray:
    """List the odd elements by magnitude and index: int64, the magnitude above 32 bits of the index."""
    found = np.empty(odd, np.int64)
    count = 0
    for first in range(0, len(bits), _RUN):
        run = bits[first : first + _RUN]
        any_ = np.uint32(0)
        for i in range(len(run)):
            any_ = np.uint32(any_ | np.uint32(run[i] & _LOWEST))
        if any_ != 0:
            for i in range(len(run)):
                if np.uint32(run[i] & _LOWEST) != 0:
                    found[count] = (np.int64(run[i] & _ABS) << np.int64(32)) | np.int64(first + i)
                    count += 1
    found.sort()
    return found


@njit(nogil=True, cache=True)
def _accumulate(counts: np.ndarray, rank: int) -> None:
    """Turn the counts of some keys into the rank of the first element of each; where there are none, they stay 0."""
    total = np.uint32(rank)
    for first in range(0, len(counts), _GROUP):
        group = counts[first : first + _GROUP]
        any_ = np.uint32(0)
        for k in range(len(group)):
            any_ = np.uint32(any_ | group[k])
        if any_ != 0:
            for k in range(len(group)):
                here = group[k]
                group[k] = total
                total = np.uint32(total + here)


@njit(nogil=True, cache=True)
def mark_keyed(
    bits: np.ndarray,
    odd: int,
    keys_range: tuple[int, int],
    line: tuple[float, float],
    words: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Mark one row by its ranks.

    Parameters
    ----------
    bits : uint32[:]
        Bits of the row's values, all of them finite.
    odd : int
        How many magnitudes have more bits than a key.
    keys_range : (int, int)
        The least and the greatest key of a magnitude that is not zero; any where there is none.
    line : (float, float)
        What a word must be below, for rank 0, and by how much that grows from rank to rank.
    words : uint32[:]
        A random word for each value.
    mask : uint8[:]
        Receives 1 for each value that is kept, else 0.
    counts : uint32[:]
        As for `ranks.mark_by_rank`.

    """
    (first, last), (low, step) = keys_range, line
    keys, ranks, listed = np.empty(len(bits), np.uint16), np.empty(len(bits), np.uint32), _list_odd(bits, odd)
    _make_keys(bits, keys)
    for i in range(len(keys)):
        counts[keys[i]] += _ONE
    apart = 0
    for k in range(SPARE, SPARE + _WAYS):
        apart += int(np.int64(counts[k]))
    for each in listed:
        counts[np.uint16(each >> _KEY)] += _ONE
    used = counts[first : last + 1]
    _accumulate(used, apart - odd)
    for i in range(len(keys)):
        here = counts[keys[i]]
        counts[keys[i]] = here + _ONE
        ranks[i] = here
    for each in listed:
        key = np.uint16(each >> _KEY)
        ranks[each & _INDEX] = counts[key]
        counts[key] += _ONE
    for i in range(len(bits)):
        is_kept = np.float64(words[i]) < low + np.float64(ranks[i]) * step
        mask[i] = np.uint8(is_kept & (np.uint32(bits[i] & _ABS) != 0))
    used[:] = 0
    counts[SPARE : SPARE + _WAYS] = 0
