"""n:m selection in a tile of a task vector: the n largest magnitudes of every m, equal ones by index, zeros never.

Blocks of up to 128 elements are sorted, sixteen of them at a time (`medium_blocks`), those of up to 16 elements within
registers (`short_blocks`). In longer blocks the threshold is searched for, block by block (`long_blocks`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.long_blocks import (
    ROW,
    count_from,
    count_level_from,
    largest_in_level,
    mark_above,
    mark_from,
    split_block,
)
from dovetail.engine.kernels.medium_blocks import LONGEST, SLAB, mark_blocks, merge_32, merge_64, turn_slab
from dovetail.engine.kernels.network import BLOCKS
from dovetail.engine.kernels.prefetch import fetch_ahead
from dovetail.engine.kernels.short_blocks import LONGEST as LONGEST_SHORT
from dovetail.engine.kernels.short_blocks import dense_4, dense_8, dense_16, loose_4, loose_8, loose_16

TABLE_ELEMENTS = (LONGEST + 2) * BLOCKS
"""Elements of a table that holds blocks side by side, with a row more for each of two sorted lists."""

SLACK = 64
"""Elements beyond the last span that the selection may read or write."""


def whole_span(m: int) -> int:
    """Give the elements of a span, a multiple of m: the selection always works on whole spans.

    Planning asks for it, and loads no kernels.
    """
    return BLOCKS * m if m <= LONGEST else m


span_elements = njit(nogil=True, cache=True)(whole_span)


def plane_elements(m: int) -> int:
    """Give the length of the planes of `long_blocks` for blocks of m elements; 0 for blocks that need none."""
    return 0 if m <= LONGEST else (m + ROW - 1) // ROW * ROW


@njit(nogil=True, cache=True)
def fill(array, start, stop, value):  # type: ignore[no-untyped-def]
    """Set ``array[start:stop]`` by a loop, which becomes vector code, unlike an assignment to a slice."""
    part = array[start:stop]
    for i in range(len(part)):
        part[i] = value


@njit(nogil=True, cache=True)
def _select_short(tau, free, marks, count, m, n, ahead):  # type: ignore[no-untyped-def]
    """Select from blocks of up to `LONGEST_SHORT` elements."""
    fetched = np.int64(0)
    for start in range(0, count, BLOCKS * m):
        fetched = fetch_ahead(ahead, fetched, start + BLOCKS * m, count)
        if m == 4:
            dense_4(tau, free, marks, start, m, n)
        elif m == 8:
            dense_8(tau, free, marks, start, m, n)
        elif m == 16:
            dense_16(tau, free, marks, start, m, n)
        elif m < 4:
            loose_4(tau, free, marks, start, m, n)
        elif m < 8:
            loose_8(tau, free, marks, start, m, n)
        else:
            loose_16(tau, free, marks, start, m, n)


@njit(nogil=True, cache=True)
def _merge(ordered, place, slabs):  # type: ignore[no-untyped-def]
    """Merge up to 4 sorted slabs into a list behind a row of the largest integer; give the rows of the list."""
    fill(ordered, (place - 1) * BLOCKS, place * BLOCKS, np.uint32(0xFFFFFFFF))
    if slabs >= 2:
        merge_32(ordered, place)
    if slabs <= 2:
        return slabs * SLAB
    if slabs == 3:
        fill(ordered, (place + 3 * SLAB) * BLOCKS, (place + 4 * SLAB) * BLOCKS, np.uint32(0))
    merge_32(ordered, place + 2 * SLAB)
    merge_64(ordered, place)
    return 4 * SLAB


@njit(nogil=True, cache=True)
def _select_medium(tau, free, marks, count, m, n, scratch, ahead):  # type: ignore[no-untyped-def]
    """Select from blocks of up to `LONGEST` elements."""
    table, ordered, _, _ = scratch
    slabs, fetched = (m + SLAB - 1) // SLAB, np.int64(0)
    first, second = np.int64(1), np.int64(2 + 4 * SLAB)
    for start in range(0, count, BLOCKS * m):
        fetched = fetch_ahead(ahead, fetched, start + BLOCKS * m, count)
        for slab in range(slabs):
            place = first + slab * SLAB if slab < 4 else second + (slab - 4) * SLAB
            turn_slab(tau, free, start, m, slab * SLAB, table, ordered, place)
        most = _merge(ordered, first, min(slabs, 4))
        least = n - _merge(ordered, second, max(slabs - 4, 0))
        mark_blocks(table, ordered, first - 1, second - 1, max(least, 0), min(n, most), n, marks, start, m)


@njit(nogil=True, cache=True)
def _level(upper, m, n, guess):  # type: ignore[no-untyped-def]
    """Find the largest t with at least n elements >= t in the upper plane, and how many elements at t are needed.

    Thresholds of neighbouring blocks are close to each other, so the search starts from that of the block before, in
    steps that grow until they pass the threshold. Where it meets a t with exactly n elements >= t, it ends early and
    returns t - 1, of which no element is needed.
    """
    low, high, above = 0, 0x8000, 0
    place, step = max(guess, 1), 8
    while high - low > 1:
        count = count_from(upper, m, place)
        if count == n:
            return place - 1, 0
        if count > n:
            low = place
            place = min(low + step, (low + high) // 2) if high == 0x8000 else (low + high) // 2
        else:
            high, above = place, count
            place = max(high - step, (low + high) // 2) if low == 0 else (low + high) // 2
        step *= 2
    return low, n - above


@njit(nogil=True, cache=True)
def _rest(upper, lower, m, level, needed):  # type: ignore[no-untyped-def]
    """Find the threshold of the lower halves among the elements at a level, and the number of ties to keep at it.

    `needed` elements of the level are kept. The largest few lower halves are tried first, because they usually settle
    it: values that were stored in 16 bits have zeros in their lower halves.
    """
    most, above = 0xFFFF, 0
    for _ in range(4):
        largest = largest_in_level(upper, lower, m, level, most)
        if largest == 0:
            return 0, needed - above
        count = count_level_from(upper, lower, m, level, largest)
        if count >= needed:
            return largest, needed - above
        most, above = largest - 1, count
    low = 0
    for bit in range(15, -1, -1):
        count = count_level_from(upper, lower, m, level, low | 1 << bit)
        if count >= needed:
            low |= 1 << bit
        else:
            above = count
    return low, needed - above


@njit(nogil=True, cache=True)
def _select_long(tau, free, marks, count, m, n, scratch, ahead):  # type: ignore[no-untyped-def]
    """Select from blocks of more than `LONGEST` elements."""
    _, _, upper, lower = scratch
    level, fetched = np.int64(0), np.int64(0)
    for start in range(0, count, m):
        fetched = fetch_ahead(ahead, fetched, start + m, count)
        split_block(tau, free, start, m, upper, lower)
        level, needed = _level(upper, m, n, level)
        if needed == 0:
            mark_above(upper, marks, start, m, level)
            continue
        low, ties = _rest(upper, lower, m, level, needed)
        # Zeros are never kept, so no tie is kept at a threshold of zero.
        mark_from(upper, lower, marks, start, m, level, low, ties if level | low else 0)


@njit(nogil=True, cache=True, inline="always")
def select(tau, free, marks, count, m, n, scratch, ahead):  # type: ignore[no-untyped-def]
    """Mark the n largest magnitudes among the free elements of every block of m.

    Parameters
    ----------
    tau : float32[:]
        Values. The kernel sets those from `count` to the end of the last span to zero.
    free : uint16[:]
        0xFFFF where an element may be selected, else 0.
    marks : uint16[:]
        Receives 0xFFFF where an element is selected, else 0. These three arrays have `SLACK` elements more than the
        spans.
    count : int
        Number of elements; the last block may be short.
    m, n : int
        Elements of a block, and how many of them to select.
    scratch : (uint32[:], uint32[:], uint16[:], uint16[:])
        Two tables of `TABLE_ELEMENTS`, and two planes of `plane_elements`.
    ahead : uint8[:]
        Memory that the caller reads next; the processor is asked to fetch it while the selection goes on.

    """
    if n == 0:
        fill(marks, np.int64(0), count, np.uint16(0))
    else:
        span = span_elements(m)
        fill(tau, count, (count + span - 1) // span * span, np.float32(0.0))
        if m <= LONGEST_SHORT:
            _select_short(tau, free, marks, count, m, n, ahead)
        elif m <= LONGEST:
            _select_medium(tau, free, marks, count, m, n, scratch, ahead)
        else:
            _select_long(tau, free, marks, count, m, n, scratch, ahead)
