"""What models keep of whole rows, as bits, and the sums of magnitudes of their task vectors and of what is kept.

The kernel reads stored bytes, some rows at a time, so that all that it works with stays in the processor's caches.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.kept_magnitudes import add_magnitudes
from dovetail.engine.kernels.marks import mark_above, put_bits
from dovetail.engine.kernels.packing import pack_bits
from dovetail.engine.kernels.philox import random_marks, random_words
from dovetail.engine.kernels.ranks import mark_by_rank
from dovetail.engine.kernels.reading import STEP, read_tile
from dovetail.engine.kernels.sums import LANES, ROW

EVERYTHING, RANDOM, RANKED = range(3)
"""What a model keeps: everything, a part at random, or a part at random by rank."""


@njit(nogil=True, cache=True)
def _rows_length(row: int, count: int) -> int:
    """Give the elements of the rows that are worked on at a time, a step or more: whole rows of sums too, or all."""
    size, rest = row, ROW
    while rest > 0:  # the greatest common divisor
        size, rest = rest, size % rest
    unit = row // size * ROW
    return min(count, unit * max(1, STEP // unit))


@njit(nogil=True, cache=True)
def mark_rows(sources, codes, keeps, place, run, counts, bits, sums):  # type: ignore[no-untyped-def]
    """Mark what each model keeps of some whole rows.

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes of the base model and of the K models; all arrays are of one numba type.
    codes : int64[K + 1]
        Dtype codes of the sources.
    keeps : (int64[K], float64[K, 2], int64[K], uint64[2], int)
        What each model keeps: `EVERYTHING`, `RANDOM` or `RANKED`; its density and epsilon; its stream of random words.
        The key of the words, and the elements of a row.
    place : (int, int, int, int)
        First element of the rows in the sources and one past the last; the index of the first in the tensor, and in
        `bits`.
    run : int
        Elements after which the sums are rounded: whole rows of sums; or as many as there are, or more.
    counts : uint32[BINS]
        As for `ranks.mark_by_rank`.
    bits : uint8[K, :]
        Marks of one bit, the lowest bit of a byte first; the kernel sets those of the elements that are kept.
    sums : float64[K, 2]
        The sums of magnitudes, of each task vector and of the part that is kept, which the kernel adds to.

    """
    kinds, numbers, streams, key, row = keeps
    begin, end, index, first = place
    size = _rows_length(row, min(run, end - begin))
    if run < end - begin and run % size:
        size = run
    room = -(-size // ROW) * ROW
    lines, tau = np.empty((len(kinds) + 1, room), np.float32), np.empty(size, np.float32)
    words, mask, lanes = np.empty(size, np.uint32), np.empty(size, np.uint8), np.zeros((len(kinds), 2, LANES))
    marks, other = np.empty(room // 8, np.uint8), np.empty(room // 8, np.uint8)
    for start in range(begin, end, size):
        stop = min(start + size, end)
        count, at, is_last = stop - start, index + start - begin, stop == end or (stop - begin) % run == 0
        read_tile(sources, codes, start, stop, end, lines)
        for j in range(len(kinds)):
            base, values = lines[0], lines[j + 1]
            if kinds[j] == RANKED:
                random_words(key, streams[j], at, words[:count])
                for i in range(count):
                    tau[i] = values[i] - base[i]
                mark_by_rank(tau[:count], row, (numbers[j, 0], numbers[j, 1]), words[:count], mask[:count], counts)
                marks[:] = 0
                pack_bits(mask[:count], 0, marks)
            else:
                mark_above(base, values, count, (0, 0), 0, marks)
                if kinds[j] == RANDOM:
                    random_marks(key, (streams[j], at), count, numbers[j, 0] * 4294967296.0, other)
                    for i in range(len(other)):
                        marks[i] &= other[i]
            put_bits(marks, count, first + start - begin, bits[j])
            whole, part = add_magnitudes(base, values, marks, count, lanes[j], is_last)
            sums[j, 0] += whole
            sums[j, 1] += part


@njit(nogil=True, cache=True)
def mark_blocks(sources, codes, keeps, places, run, counts, bits, sums):  # type: ignore[no-untyped-def]
    """Mark what each model keeps of some blocks of whole rows.

    Parameters
    ----------
    sources, codes, keeps, run, counts
        As for `mark_rows`.
    places : int64[B, 4]
        The place of each block, as for `mark_rows`.
    bits : uint8[B, K, :] or uint8[1, K, :]
        Marks of one bit, the lowest bit of a byte first, in a line for each block and model: zeros before. If there is
        one line for all blocks, it holds the marks of the last one afterwards.
    sums : float64[B, K, 2]
        Of each block, the sums of magnitudes, which the kernel adds to.

    """
    for block in range(len(places)):
        line = bits[block % len(bits)]
        if len(bits) == 1:
            line[:] = 0
        place = places[block, 0], places[block, 1], places[block, 2], places[block, 3]
        mark_rows(sources, codes, keeps, place, run, counts, line, sums[block])
