"""Sums of the marked parts of task vectors, fused into one kernel that reads and writes stored bytes, tile by tile.

The kernel takes the steps of `sparsified.sparsified_sum`, but for choosing what is kept: it reads marks of one bit.
All arithmetic is float32, and every operation is rounded by itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import encode
from dovetail.engine.kernels.marks import take_bits
from dovetail.engine.kernels.merging import begin_sums, close_run, merge_tile
from dovetail.engine.kernels.reading import STEP, count_stored, read_tile
from dovetail.engine.kernels.statistics import count_common, count_nonfinite

TILE = 4096
"""Elements after which sums are rounded, where they are rounded tile by tile."""


@njit(nogil=True, cache=True)
def marked_sum(sources, codes, marks, place, factors, options, out, totals):  # type: ignore[no-untyped-def]
    """Merge a run of elements: W0 + factor * sum(weight * (scale * marked tau)), divided if asked for, maybe voting.

    Parameters
    ----------
    sources, codes, factors, options, out, totals
        As for `sparsified.sparsified_sum`.
    marks : uint8[blocks, K, :]
        Marks of one bit, the lowest bit of a byte first, in a line for each block and model.
    place : (int, int, int, int, bool)
        First element of the run in the sources and in the output, and one past its last; the element of the first
        block that the first of the run is; the elements of a block; and whether sums of squares are rounded tile by
        tile rather than block by block.

    Returns
    -------
    int
        The number of elements of the output that are not finite.

    """
    begin, end, offset, block, by_tile = place
    nonfinite, pairs, squares = totals
    models, out_code, overflowed = factors.shape[1], codes[len(codes) - 1], 0
    lines, bits = np.empty((models + 1, STEP), np.float32), np.empty((models, TILE // 8), np.uint8)
    sums, merged = begin_sums(models), np.empty(STEP, np.float32)
    block_begin = begin
    while block_begin < end:
        line, at = (offset + block_begin - begin) // block, (offset + block_begin - begin) % block
        block_end = min(end, block_begin - at + block)
        finite = True
        for first in range(block_begin, block_end, TILE):
            last = min(first + TILE, block_end)
            for j in range(models):
                take_bits(marks[line, j], at + first - block_begin, last - first, bits[j])
            count_common(bits, last - first, pairs)
            for start in range(first, last, STEP):
                stop = min(start + STEP, last)
                part, count = bits[:, (start - first) // 8 :], stop - start
                read_tile(sources, codes, start, stop, end, lines)
                merge_tile(lines, part, factors, options, count, sums, merged)
                if stop == block_end or (by_tile and stop == last):
                    finite &= close_run(lines, part, count, sums, squares)
                overflowed += count_nonfinite(merged[:count])
                overflowed += encode(merged, out_code, start, stop, out)
        if not finite:
            count_stored(sources, codes, block_begin, block_end, nonfinite)
        block_begin = block_end
    return overflowed
