"""Sums of sparsified task vectors, fused from stored bytes to stored bytes, tile by tile.

The same steps as `dovetail.engine.methods.sparsified` takes with one kernel each, for everything that is kept without
looking at rows: all, a band of ranks, or a part at random. All arithmetic is float32, each operation rounded on its
own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import ITEMSIZES, decode, encode
from dovetail.engine.kernels.election import add_scaled, add_voting, elect_signs, scale_change
from dovetail.engine.kernels.philox import mark_random, random_words
from dovetail.engine.kernels.statistics import count_nonfinite, count_pairs, mark_nonzero
from dovetail.engine.kernels.strongest import mark_strongest
from dovetail.engine.kernels.sums import sum_magnitudes, sum_squares
from dovetail.engine.kernels.task_vectors import add_change, keep_masked, subtract

TILE = 4096
"""Elements of a tile: few enough for the nearest caches."""

EVERYTHING, BAND, RANDOM = range(3)
"""What a model keeps."""


@njit(nogil=True, cache=True)
def _mark(tau, model, keeps, first, words, mask, other):  # type: ignore[no-untyped-def]
    """Mark what a model keeps of a tile; see `sparsified_sum` for `keeps`."""
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
    """Sum the magnitudes of all of a run of elements, and of what is kept of it.

    Parameters
    ----------
    sources, codes, keeps
        As for `sparsified_sum`.
    place : (int, int, int)
        First element and one past the last within the sources; index of the first in the tensor.
    out : float64[models, 2]
        Receives the sums of each model.

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
    """Merge a chunk.

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes of the base model and of the models, all of the same type.
    codes : int64[:]
        Their dtype codes; the last is the output's.
    keeps : tuple
        What each model keeps: kinds, int64[models]; rules of bands, int64[models, 2, 2] (magnitude bits and ties of the
        last element kept, and of the last dropped as too large or -1); how many ties came before, int64[models, 2],
        updated; edges of random words, float64[models]; their key, uint64[2].
    index : int
        Index of the first element in the tensor.
    factors : float32[2, models]
        Rescaling factors and weights.
    options : (bool, bool, float32, float32)
        Whether signs are elected, whether by the sum of weights is divided, that sum, and the factor (lambda).
    out : uint8[:]
        Receives the stored bytes of the result.
    totals : tuple
        Added to: NaN and infinite elements of each source, int64[models + 1]; what both of two models keep,
        int64[models, models]; sums of squares of task vectors, of what is kept, and of the change,
        float64[2 models + 1].

    Returns
    -------
    int
        Elements of the output that are not finite.

    """
    voting, normalize, divisor, factor = options
    nonfinite, pairs, squares = totals
    models, out_code = factors.shape[1], codes[len(codes) - 1]
    base, tau, kept = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    change, sums = np.empty(TILE, np.float32), np.empty((5 if voting else 0, TILE), np.float32)
    words, other, masks = np.empty(TILE, np.uint32), np.empty(TILE, np.uint8), np.empty((models, TILE), np.uint8)
    length, overflowed = len(out) // ITEMSIZES[out_code], 0
    for start in range(0, length, TILE):
        stop = min(start + TILE, length)
        count = stop - start
        origin, vector, delta = base[:count], tau[:count], change[:count]
        decode(sources[0], codes[0], start, stop, origin)
        delta[:] = np.float32(0.0)
        sums[:] = np.float32(0.0)
        finite = True
        for j in range(models):
            marks = masks[j, :count]
            decode(sources[j + 1], codes[j + 1], start, stop, vector)
            subtract(vector, origin)
            square = sum_squares(vector)
            squares[j] += square
            # Squares of float32 cannot overflow float64: a finite sum means that both sources are finite here.
            finite &= np.isfinite(square)
            _mark(vector, j, keeps, index + start, words[:count], marks, other[:count])
            keep_masked(vector, marks, kept[:count])
            squares[models + j] += sum_squares(kept[:count])
            if voting:
                add_voting(vector, marks, factors[0, j], factors[1, j], factors[1, j], sums)
            else:
                add_scaled(vector, marks, factors[0, j], factors[1, j], delta)
        if not finite:
            for j in range(models + 1):
                decode(sources[j], codes[j], start, stop, vector)
                nonfinite[j] += count_nonfinite(vector)
        if voting:
            elect_signs(sums, normalize, np.float32(-np.inf), delta)
        scale_change(delta, divisor, factor)
        squares[2 * models] += sum_squares(delta)
        count_pairs(masks, count, pairs)
        add_change(delta, origin)
        overflowed += count_nonfinite(delta)
        overflowed += encode(delta, out_code, start, stop, out)
    return overflowed
