"""Sums of the marked parts of task vectors, fused into one kernel that reads and writes stored bytes, tile by tile.

The kernel takes the steps of `sparsified.sparsified_sum`, but for choosing what is kept: it reads marks of one bit.
All arithmetic is float32, and every operation is rounded by itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import decode, encode
from dovetail.engine.kernels.election import add_scaled, add_voting, elect_signs, scale_change
from dovetail.engine.kernels.packing import unpack_bits
from dovetail.engine.kernels.running_sums import LANES, add_squares
from dovetail.engine.kernels.statistics import count_nonfinite, count_pairs
from dovetail.engine.kernels.task_vectors import add_change, subtract

TILE = 4096
"""Elements of a tile: few enough for the L1 and L2 caches."""


@njit(nogil=True, cache=True)
def _count_nonfinite(sources, codes, start, stop, nonfinite):  # type: ignore[no-untyped-def]
    """Count the NaN and infinite elements of a run in each source."""
    values = np.empty(TILE, np.float32)
    for source in range(len(nonfinite)):
        for first in range(start, stop, TILE):
            tile = values[: min(first + TILE, stop) - first]
            decode(sources[source], codes[source], first, first + len(tile), tile)
            nonfinite[source] += count_nonfinite(tile)


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
    voting, normalize, divisor, factor = options
    nonfinite, pairs, squares = totals
    models, out_code = factors.shape[1], codes[len(codes) - 1]
    base, tau, change = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    sums, masks = np.empty((5 if voting else 0, TILE), np.float32), np.empty((models, TILE), np.uint8)
    ones, lanes, overflowed = np.ones(TILE, np.uint8), np.zeros((models + 1, 2, LANES)), 0
    block_begin = begin
    while block_begin < end:
        line, at = (offset + block_begin - begin) // block, (offset + block_begin - begin) % block
        block_end = min(end, block_begin - at + block)
        finite = True
        for start in range(block_begin, block_end, TILE):
            stop = min(start + TILE, block_end)
            count = stop - start
            origin, vector, delta = base[:count], tau[:count], change[:count]
            decode(sources[0], codes[0], start, stop, origin)
            delta[:] = np.float32(0.0)
            sums[:] = np.float32(0.0)
            for j in range(models):
                mask = masks[j, :count]
                decode(sources[j + 1], codes[j + 1], start, stop, vector)
                subtract(vector, origin)
                unpack_bits(marks[line, j], at + start - block_begin, mask)
                square, kept = add_squares(vector, mask, lanes[j], by_tile or stop == block_end)
                squares[j] += square
                squares[models + j] += kept
                # Squares of float32 do not overflow float64, so a finite sum means that both sources are finite here.
                finite &= np.isfinite(square)
                if voting:
                    add_voting(vector, mask, factors[0, j], factors[1, j], factors[1, j], sums)
                else:
                    add_scaled(vector, mask, factors[0, j], factors[1, j], delta)
            if voting:
                elect_signs(sums, normalize, np.float32(-np.inf), delta)
            scale_change(delta, divisor, factor)
            square, _ = add_squares(delta, ones[:count], lanes[models], by_tile or stop == block_end)
            squares[2 * models] += square
            count_pairs(masks, count, pairs)
            add_change(delta, origin)
            overflowed += count_nonfinite(delta)
            overflowed += encode(delta, out_code, start, stop, out)
        if not finite:
            _count_nonfinite(sources, codes, block_begin, block_end, nonfinite)
        block_begin = block_end
    return overflowed
