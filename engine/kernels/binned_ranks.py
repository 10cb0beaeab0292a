"""Ranks of a row whose magnitudes have many bits: bounds by a histogram, and exact ranks where the bounds do not do.

Bins are equally wide up to a magnitude that is usual in the row, and then become wider with every power of two, so that
neither many small values nor a few large ones crowd into few bins. Rows of values of all orders of magnitude get bins
by their upper bits. The elements before a bin and those up to its end
bound the ranks in it, and the random word mostly lies outside of what the bounds leave open. The ranks of the other
elements are found by counting; a row in which that would take long is sorted.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ABS, _INFINITE = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_ONE, _HALF = np.uint32(1), np.float32(0.5)
_OCTAVES = 8
"""The last bin begins at so many powers of two above the usual magnitude, and holds all greater ones."""
_FEWEST_BITS, _MOST_BITS = 4, 12
"""Bins for a power of two, as powers of two; there is one for eight elements, within these bounds."""
_WAYS = 64
"""Bins beyond the last that zeros take in turn, so that neighbours do not wait for one counter."""
_RUN = 64
"""Elements that are tested together for an undecided one."""
_SAMPLE, _USUAL = 15, 11
"""Elements of a sample, of which one of high rank is the usual magnitude."""
_MANY, _UPPER = 24, np.uint32(15)
"""If more elements are undecided, and one in 256, bins are made of the upper bits of magnitudes instead: values of all
orders of magnitude need them. What they leave out."""
_MOST_MAGNITUDES = 64
"""A row is sorted if its undecided elements have more distinct magnitudes than this."""


@njit(nogil=True, cache=True)
def _count_below(bits: np.ndarray, magnitude: np.uint32) -> int:
    """Count the elements with a smaller magnitude."""
    found = np.uint32(0)
    for k in range(len(bits)):
        found = np.uint32(found + np.uint32(np.uint32(bits[k] & _ABS) < magnitude))
    return int(np.int64(found))


@njit(nogil=True, cache=True)
def _count_equal(bits: np.ndarray, magnitude: np.uint32) -> int:
    """Count the elements with the same magnitude."""
    found = np.uint32(0)
    for k in range(len(bits)):
        found = np.uint32(found + np.uint32(np.uint32(bits[k] & _ABS) == magnitude))
    return int(np.int64(found))


@njit(nogil=True, cache=True)
def _mark_sorted(
    bits: np.ndarray, line: tuple[float, float], words: np.ndarray, mask: np.ndarray, keys: np.ndarray
) -> None:
    """Mark the elements of a row by their ranks, which a sort of magnitudes and indices finds, in keys: int64[:]."""
    low, step = line
    for i in range(len(bits)):
        keys[i] = (np.int64(bits[i] & _ABS) << np.int64(32)) | np.int64(i)
    keys.sort()
    for rank in range(len(bits)):
        i = int(keys[rank] & np.int64(0xFFFFFFFF))
        mask[i] = np.uint8((np.float64(words[i]) < low + np.float64(rank) * step) & ((bits[i] & _ABS) != 0))


@njit(nogil=True, cache=True)
def _mark_counted(
    bits: np.ndarray, line: tuple[float, float], words: np.ndarray, mask: np.ndarray, undecided: np.ndarray
) -> bool:
    """Mark the undecided elements, given by ascending indices, by their ranks, which are found by counting.

    Elements of equal magnitude are marked together. The function gives up, and returns false, where the undecided
    elements have more than `_MOST_MAGNITUDES` distinct magnitudes.
    """
    low, step = line
    magnitudes = 0
    for first in range(len(undecided)):
        if undecided[first] < 0:
            continue
        if magnitudes == _MOST_MAGNITUDES:
            return False
        magnitudes += 1
        magnitude = np.uint32(bits[undecided[first]] & _ABS)
        rank, reached = _count_below(bits, magnitude), 0
        for other in range(first, len(undecided)):
            i = undecided[other]
            if i >= 0 and np.uint32(bits[i] & _ABS) == magnitude:
                rank += _count_equal(bits[reached:i], magnitude)
                reached = i
                mask[i] = np.uint8(np.float64(words[i]) < low + np.float64(rank) * step)
                undecided[other] = -1
    return True


@njit(nogil=True, cache=True)
def _usual(bits: np.ndarray, most: np.uint32) -> np.uint32:
    """Give a finite magnitude that three of four elements of a small sample do not exceed; a greater one than 0."""
    sample = np.empty(_SAMPLE, np.uint32)
    for k in range(_SAMPLE):
        each = min(np.uint32(bits[(2 * k + 1) * len(bits) // (2 * _SAMPLE)] & _ABS), np.uint32(_INFINITE - _ONE))
        place = k
        while place > 0 and sample[place - 1] > each:
            sample[place] = sample[place - 1]
            place -= 1
        sample[place] = each
    for k in range(_USUAL, _SAMPLE):
        if sample[k] != 0:
            return np.uint32(sample[k])
    return min(most, np.uint32(_INFINITE - _ONE))


@njit(nogil=True, cache=True)
def _make_keys(
    values: np.ndarray, bits: np.ndarray, most: np.uint32, octave_bits: int, sums: np.ndarray, keys: np.ndarray
) -> int:
    """Give each element its bin, and zeros those from the one on that is returned; sums: float32[:] is scratch."""
    usual = np.empty(1, np.uint32)
    usual[0] = _usual(bits, most)
    # Halves, because the sum of two magnitudes may be too large for float32.
    center = np.float32(_HALF * usual.view(np.float32)[0])
    usual.view(np.float32)[0] = center
    origin = usual[0]
    last, shift = np.uint32(_OCTAVES << octave_bits), np.uint32(np.uint32(23 - octave_bits) & np.uint32(31))
    for i in range(len(values)):
        sums[i] = np.float32(np.float32(_HALF * abs(values[i])) + center)
    raised, spare = sums.view(np.uint32), np.uint32(last + _ONE)
    for i in range(len(values)):
        magnitude = np.uint32(bits[i] & _ABS)
        # Adding is monotone for finite numbers; the others share the last bin.
        key = np.uint32(np.uint32(raised[i] - origin) >> shift)
        key = last if (key > last) | (magnitude >= _INFINITE) else key
        keys[i] = np.uint16(np.uint32(spare + np.uint32(i & (_WAYS - 1))) if magnitude == 0 else key)
    return int(spare)


@njit(nogil=True, cache=True)
def _make_upper_keys(bits: np.ndarray, keys: np.ndarray) -> int:
    """Give each element the upper bits of its magnitude, as `_make_keys` gives bins."""
    last, spare = np.uint32(_INFINITE >> _UPPER), np.uint32(np.uint32(_INFINITE >> _UPPER) + _ONE)
    for i in range(len(bits)):
        magnitude = np.uint32(bits[i] & _ABS)
        key = min(np.uint32(magnitude >> _UPPER), last)
        keys[i] = np.uint16(np.uint32(spare + np.uint32(i & (_WAYS - 1))) if magnitude == 0 else key)
    return int(spare)


@njit(nogil=True, cache=True)
def _greatest(keys: np.ndarray, spare: int) -> int:
    """Find the last bin that is used; 0 if all elements are zero."""
    most = np.uint16(0)
    for i in range(len(keys)):
        most = max(most, keys[i] if keys[i] < np.uint16(spare) else np.uint16(0))
    return int(np.int64(most))


@njit(nogil=True, cache=True)
def _accumulate(counts: np.ndarray, rank: int) -> None:
    """Turn the counts of bins into the rank of the first element of each."""
    total = np.uint32(rank)
    for k in range(len(counts)):
        here = counts[k]
        counts[k] = total
        total = np.uint32(total + here)


@njit(nogil=True, cache=True)
def _bound(
    bits: np.ndarray,
    lowest: np.ndarray,
    ends: np.ndarray,
    line: tuple[float, float],
    words: np.ndarray,
    mask: np.ndarray,
) -> int:
    """Mark the elements that the bounds of their ranks decide, write 2 or 3 for the others, and count these."""
    low, step = line
    found = np.uint32(0)
    for i in range(len(bits)):
        word, some = np.float64(words[i]), np.uint8(np.uint32(bits[i] & _ABS) != 0)
        keep = np.uint8(word < low + np.float64(lowest[i]) * step)
        other = np.uint8(word < low + (np.float64(ends[i]) - 1.0) * step)
        is_open = np.uint8((keep ^ other) & some)
        found = np.uint32(found + np.uint32(is_open))
        mask[i] = np.uint8(np.uint8(keep & some) | np.uint8(is_open << np.uint8(1)))
    return int(np.int64(found))


@njit(nogil=True, cache=True)
def _list_open(mask: np.ndarray, found: int) -> np.ndarray:
    """List the indices of the elements that are undecided."""
    undecided = np.empty(found, np.int64)
    count = 0
    for first in range(0, len(mask), _RUN):
        run = mask[first : first + _RUN]
        any_ = np.uint8(0)
        for i in range(len(run)):
            any_ = np.uint8(any_ | run[i])
        if any_ & 2:
            for i in range(len(run)):
                if run[i] & 2:
                    undecided[count] = first + i
                    count += 1
    return undecided


@njit(nogil=True, cache=True)
def _mark_bounded(
    bits: np.ndarray,
    keys: np.ndarray,
    spare: int,
    scratch: np.ndarray,
    line: tuple[float, float],
    words: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Do as `_bound` does, with bounds by a histogram of keys; those from `spare` on are zeros'."""
    for i in range(len(keys)):
        counts[keys[i]] += _ONE
    zeros = 0
    for k in range(spare, spare + _WAYS):
        zeros += int(np.int64(counts[k]))
        counts[k] = 0
    used = counts[: _greatest(keys, spare) + 2]
    _accumulate(used, zeros)
    lowest, ends = scratch.view(np.uint32)[: len(bits)], scratch.view(np.uint32)[len(bits) :]
    for i in range(len(keys)):
        lowest[i], ends[i] = counts[keys[i]], counts[np.uint32(keys[i]) + _ONE]
    used[:] = 0
    return _bound(bits, lowest, ends, line, words, mask)


@njit(nogil=True, cache=True)
def mark_binned(
    values: np.ndarray,
    most: np.uint32,
    line: tuple[float, float],
    words: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Mark one row by its ranks.

    Parameters
    ----------
    values : float32[:]
        The row.
    most : uint32
        Bits of the greatest magnitude.
    line : (float, float)
        What a word must be below, for rank 0, and by how much that grows from rank to rank.
    words : uint32[:]
        A random word for each value.
    mask : uint8[:]
        Receives 1 for each value that is kept, else 0.
    counts : uint32[:]
        As for `ranks.mark_by_rank`.

    """
    bits, keys, octave_bits = values.view(np.uint32), np.empty(len(values), np.uint16), _FEWEST_BITS
    while octave_bits < _MOST_BITS and (16 << octave_bits) <= len(values):
        octave_bits += 1
    scratch = np.empty(len(values), np.int64)  # one thing after another, because rows can be long
    spare = _make_keys(values, bits, most, octave_bits, scratch.view(np.float32)[: len(values)], keys)
    found = _mark_bounded(bits, keys, spare, scratch, line, words, mask, counts)
    if found > _MANY + len(bits) // 256:
        spare = _make_upper_keys(bits, keys)
        found = _mark_bounded(bits, keys, spare, scratch, line, words, mask, counts)
    if found == 0:
        return
    is_short = found <= _MOST_MAGNITUDES + len(bits) // 8
    if not (is_short and _mark_counted(bits, line, words, mask, _list_open(mask, found))):
        _mark_sorted(bits, line, words, mask, scratch)
