"""Sums of sparsified task vectors, fused into one kernel that reads and writes stored bytes, tile by tile.

The kernel takes the steps that `dovetail.engine.methods.sparsified` otherwise takes with one kernel each. It serves
models that keep everything, a band of ranks by magnitude, or a part at random, but not those that rank the elements of
a row. All arithmetic is float32, and every operation is rounded by itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import ITEMSIZES, decode, encode
from dovetail.engine.kernels.election import add_scaled, scale_change
from dovetail.engine.kernels.philox import mark_random, random_words
from dovetail.engine.kernels.statistics import count_nonfinite, count_pairs, mark_nonzero
from dovetail.engine.kernels.strongest import mark_strongest
from dovetail.engine.kernels.sums import sum_magnitudes, sum_squares
from dovetail.engine.kernels.task_vectors import add_change, keep_masked, subtract
from dovetail.engine.kernels.voting import vote

TILE = 4096
"""Elements of a tile: few enough for the L1 and L2 caches."""

EVERYTHING, BAND, RANDOM = range(3)
"""What a model keeps: everything, a band of ranks by magnitude, or a part at random."""


@njit(nogil=True, cache=True)
def _mark(tau, model, keeps, first, words, mask, other):  # type: ignore[no-untyped-def]
    """Mark the elements of a tile that a model keeps; `keeps` is as for `sparsified_sum`."""
    kinds, rules, seen, edges, key = keeps
    if kinds[model] == EVERYTHING:
        mark_nonzero(tau, mask)
    elif kinds[model] == BAND:
        seen[model, 0] = mark_strongest(tau, rules[model, 0, 0], rules[model, 0, 1], seen[model, 0], mask)
        if rules[model, 1, 0] >= 0:
            seen[model, 1] = mark_strongest(tau, rules[model, 1, 0], rules[model, 1, 1], seen[model, 1], other)
            for i in range(len(mask)):
                mask[i] &= other[i] ^ np.uint8(1)
    else:
        random_words(key, model, first, words)
        mark_random(words, edges[model], tau, mask)


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
    base, tau, kept = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    words, mask, other = np.empty(TILE, np.uint32), np.empty(TILE, np.uint8), np.empty(TILE, np.uint8)
    out[:] = 0.0
    for start in range(begin, end, TILE):
        stop = min(start + TILE, end)
        count = stop - start
        decode(sources[0], codes[0], start, stop, base[:count])
        for j in range(len(out)):
            vector, marks = tau[:count], mask[:count]
            decode(sources[j + 1], codes[j + 1], start, stop, vector)
            subtract(vector, base[:count])
            _mark(vector, j, keeps, index + start - begin, words[:count], marks, other[:count])
            keep_masked(vector, marks, kept[:count])
            out[j, 0] += sum_magnitudes(vector)
            out[j, 1] += sum_magnitudes(kept[:count])


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
    voting, normalize, divisor, factor = options
    kinds = keeps[0]
    nonfinite, pairs, squares = totals
    models, out_code = factors.shape[1], codes[len(codes) - 1]
    base, kept, change = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    taus = np.empty((models if voting else 1, TILE), np.float32)
    words, other, masks = np.empty(TILE, np.uint32), np.empty(TILE, np.uint8), np.empty((models, TILE), np.uint8)
    length, overflowed = len(out) // ITEMSIZES[out_code], 0
    for start in range(0, length, TILE):
        stop = min(start + TILE, length)
        count = stop - start
        origin, delta = base[:count], change[:count]
        decode(sources[0], codes[0], start, stop, origin)
        delta[:] = np.float32(0.0)
        finite = True
        for j in range(models):
            marks, vector = masks[j, :count], taus[j if voting else 0, :count]
            decode(sources[j + 1], codes[j + 1], start, stop, vector)
            subtract(vector, origin)
            square = sum_squares(vector)
            squares[j] += square
            # Squares of float32 do not overflow float64, so a finite sum means that both sources are finite here.
            finite &= np.isfinite(square)
            _mark(vector, j, keeps, index + start, words[:count], marks, other[:count])
            if kinds[j] == EVERYTHING:
                squares[models + j] += square
            else:
                keep_masked(vector, marks, kept[:count])
                squares[models + j] += sum_squares(kept[:count])
            if not voting:
                add_scaled(vector, marks, factors[0, j], factors[1, j], delta)
        if not finite:
            for j in range(models + 1):
                decode(sources[j], codes[j], start, stop, kept[:count])
                nonfinite[j] += count_nonfinite(kept[:count])
        if voting:
            vote(sources[1:], taus, masks, factors, normalize, count, change)
        scale_change(delta, divisor, factor)
        squares[2 * models] += sum_squares(delta)
        count_pairs(masks, count, pairs)
        add_change(delta, origin)
        overflowed += count_nonfinite(delta)
        overflowed += encode(delta, out_code, start, stop, out)
    return overflowed
