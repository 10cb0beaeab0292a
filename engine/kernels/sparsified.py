"""Sums of sparsified task vectors, fused into one kernel that reads and writes stored bytes, tile by tile.

The kernel takes the steps that `dovetail.engine.methods.sparsified` otherwise takes with one kernel each. It serves
models that keep everything, a band of ranks by magnitude, or a part at random, but not those that rank the elements of
a row. All arithmetic is float32, and every operation is rounded by itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import ITEMSIZES, encode
from dovetail.engine.kernels.kept_magnitudes import add_magnitudes
from dovetail.engine.kernels.marks import mark_above
from dovetail.engine.kernels.merging import begin_sums, close_run, merge_tile
from dovetail.engine.kernels.philox import random_marks
from dovetail.engine.kernels.reading import STEP, count_stored, read_tile
from dovetail.engine.kernels.statistics import count_common, count_nonfinite
from dovetail.engine.kernels.sums import LANES

TILE = 4096
"""Elements of a tile, after which sums are rounded."""

EVERYTHING, BAND, RANDOM = range(3)
"""What a model keeps: everything, a band of ranks by magnitude, or a part at random."""


@njit(nogil=True, cache=True)
def _mark(lines, model, keeps, place, bits, other):  # type: ignore[no-untyped-def]
    """Mark the elements of a part of a tile that a model keeps.

    `keeps` is as for `sparsified_sum`; `place` is the index in the tensor of the first element, and how many there are.
    """
    (kinds, rules, seen, edges, key), (first, count) = keeps, place
    base, values = lines[0], lines[model + 1]
    if kinds[model] == BAND:
        rule = rules[model, 0, 0], rules[model, 0, 1]
        seen[model, 0] = mark_above(base, values, count, rule, seen[model, 0], bits)
        if rules[model, 1, 0] >= 0:
            rule = rules[model, 1, 0], rules[model, 1, 1]
            seen[model, 1] = mark_above(base, values, count, rule, seen[model, 1], other)
            for i in range(len(other)):
                bits[i] &= ~other[i]
    else:
        mark_above(base, values, count, (0, 0), 0, bits)
        if kinds[model] == RANDOM:
            random_marks(key, (model, first), count, edges[model], other)
            for i in range(len(other)):
                bits[i] &= other[i]


@njit(nogil=True, cache=True)
def sparsified_norms(sources, codes, keeps, place, out):  # type: ignore[no-untyped-def]
    """Sum, for each model, the magnitudes of a run of its task vector, and those of the part that the model keeps.

    Parameters
    ----------
    sources, codes, keeps
        As for `sparsified_sum`.
    place : (int, int, int)
        First element of the run in the sources and one past its last, and the index of the first in the tensor.
    out : float64[K, 2]
        Receives the two sums of each model.

    """
    begin, end, index = place
    lines, lanes = np.empty((len(out) + 1, STEP), np.float32), np.zeros((len(out), 2, LANES))
    bits, other = np.empty(STEP // 8, np.uint8), np.empty(STEP // 8, np.uint8)
    out[:] = 0.0
    for start in range(begin, end, STEP):
        stop = min(start + STEP, end)
        count, is_last = stop - start, stop == end or (stop - begin) % TILE == 0
        read_tile(sources, codes, start, stop, end, lines)
        for j in range(len(out)):
            _mark(lines, j, keeps, (index + start - begin, count), bits, other)
            whole, kept = add_magnitudes(lines[0], lines[j + 1], bits, count, lanes[j], is_last)
            out[j, 0] += whole
            out[j, 1] += kept


@njit(nogil=True, cache=True)
def sparsified_sum(sources, codes, keeps, index, factors, options, out, totals):  # type: ignore[no-untyped-def]
    """Merge a chunk: W0 + factor * sum(weight * (scale * kept tau)), divided if asked for, with or without voting.

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes of the base model and of the K models; all arrays are of one numba type.
    codes : int64[K + 2]
        Dtype codes of the sources, then that of the output.
    keeps : (int64[K], int64[K, 2, 2], int64[K, 2], float64[K], uint64[2])
        What each model keeps. The kinds: `EVERYTHING`, `BAND` or `RANDOM`. For bands, the rules: threshold (magnitude
        bits) and ties of the last element that is kept, and of the last one that is dropped as too large, or -1 if none
        is. For bands, how many ties of each rule come before in the tensor, which the kernel adds to. For random parts,
        the edges below which a random word keeps an element, and the key of the random words.
    index : int
        Index in the tensor of the first element.
    factors : float32[2, K]
        The models' rescaling factors, and their weights.
    options : (bool, bool, float32, float32)
        Whether signs are elected (TIES, see `election`); whether the elected sum is then divided by the weights of its
        models; the divisor of the sum, 1 with an election; and its factor (the papers' lambda).
    out : uint8[:]
        Receives the stored bytes of the result.
    totals : (int64[K + 1], int64[K, K], float64[2 K + 1])
        Sums that the kernel adds to: NaN and infinite elements of each source; how many elements both model i and
        model j keep; sums of squares of the task vectors, of their kept parts, and of the change.

    Returns
    -------
    int
        The number of elements of the output that are not finite.

    """
    nonfinite, pairs, squares = totals
    models, out_code = factors.shape[1], codes[len(codes) - 1]
    lines, bits = np.empty((models + 1, STEP), np.float32), np.zeros((models, TILE // 8), np.uint8)
    sums, merged = begin_sums(models), np.empty(STEP, np.float32)
    other, length, overflowed = np.empty(STEP // 8, np.uint8), len(out) // ITEMSIZES[out_code], 0
    for first in range(0, length, TILE):
        last, finite = min(first + TILE, length), True
        for start in range(first, last, STEP):
            stop, at = min(start + STEP, last), (start - first) // 8
            part, count = bits[:, at : at + STEP // 8], stop - start
            read_tile(sources, codes, start, stop, length, lines)
            for j in range(models):
                _mark(lines, j, keeps, (index + start, count), part[j], other)
            merge_tile(lines, part, factors, options, count, sums, merged)
            if stop == last:
                finite = close_run(lines, part, count, sums, squares)
            overflowed += count_nonfinite(merged[:count])
            overflowed += encode(merged, out_code, start, stop, out)
        if not finite:
            count_stored(sources, codes, first, last, nonfinite)
        count_common(bits, last - first, pairs)
    return overflowed
