"""Merging packed parts of task vectors: marks of one bit, and the models' values at the marks.

The kernel takes the steps of `sparsified.sparsified_sum`, and finds the kept elements by their marks rather than by
choosing them: what is not kept costs nothing but the base model's value. All arithmetic is float32, every operation is
rounded by itself, and models are added in order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.bits import count_ones, lowest_one
from dovetail.engine.kernels.convert import decode, encode
from dovetail.engine.kernels.election import add_voting, elect_signs, scale_change
from dovetail.engine.kernels.statistics import count_nonfinite
from dovetail.engine.kernels.sums import sum_squares
from dovetail.engine.kernels.task_vectors import add_change

TILE = 4096
"""Elements of a tile: few enough for the L1 and L2 caches; whole words of marks."""

_WORD = 64
_ALL, _NONE, _ONE = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0), np.uint64(1)
_ZERO = np.float32(0.0)


@njit(nogil=True, cache=True)
def _within(words, index, begin, end):  # type: ignore[no-untyped-def]
    """Give a word of marks without those of elements outside ``begin:end``."""
    word, first = words[index], index * _WORD
    if first < begin:
        word &= _ALL << np.uint64(begin - first)
    if first + _WORD > end:
        word &= _ALL >> np.uint64(first + _WORD - end)
    return word


@njit(nogil=True, cache=True)
def count_words(words, other, begin, end):  # type: ignore[no-untyped-def]
    """Count the elements of ``begin:end`` that both of two arrays of marks mark.

    Parameters
    ----------
    words, other : uint64[:]
        Marks, 64 in a word, the lowest bit first.
    begin, end : int
        A range of elements; `end` is above `begin`.

    """
    count = 0
    for index in range(begin // _WORD, (end - 1) // _WORD + 1):
        count += count_ones(np.uint64(_within(words, index, begin, end) & other[index]))
    return count


@njit(nogil=True, cache=True)
def _add_kept(words, begin, end, values, origin, scale, weight, total):  # type: ignore[no-untyped-def]
    """Add the contributions of the kept elements of ``begin:end``; their changes take the place of their values."""
    at, size = 0, end - begin
    for index in range(begin // _WORD, (end - 1) // _WORD + 1):
        first = index * _WORD - begin
        low, high = max(first, 0), min(first + _WORD, size)
        word = words[index]
        if high - low < _WORD:
            word = _within(words, index, begin, end) >> np.uint64(low - first)
        # Parts of arrays, because places within a word need fewer checks than places within the run.
        before, sums = origin[low:high], total[low:high]
        while word != _NONE:
            i = lowest_one(word)
            tau = np.float32(values[at] - before[i])
            values[at] = tau
            sums[i] = np.float32(sums[i] + np.float32(weight * np.float32(scale * tau)))
            word &= np.uint64(word - _ONE)
            at += 1


@njit(nogil=True, cache=True)
def unpack(words, begin, end, values, origin, mask, tau):  # type: ignore[no-untyped-def]
    """Unpack a run of elements into a task vector that is zero where the model keeps nothing.

    Parameters
    ----------
    words : uint64[:]
        Marks, as for `count_words`.
    begin, end : int
        The run; `end` is above `begin`.
    values : float32[:]
        The model's values at the marks of the run.
    origin : float32[:]
        The base model's values of the run.
    mask : uint8[:]
        Receives 1 where the model keeps the element, else 0.
    tau : float32[:]
        Receives the kept part of the task vector.

    """
    mask[:] = 0
    tau[:] = _ZERO
    at = 0
    for index in range(begin // _WORD, (end - 1) // _WORD + 1):
        word = _within(words, index, begin, end)
        while word != _NONE:
            i = index * _WORD + lowest_one(word) - begin
            mask[i] = 1
            tau[i] = np.float32(values[at] - origin[i])
            word &= np.uint64(word - _ONE)
            at += 1


@njit(nogil=True, cache=True)
def stored_sum(sources, codes, marks, bounds, factors, options, out, totals):  # type: ignore[no-untyped-def]
    """Merge a run of elements: W0 + factor * sum(weight * (scale * kept tau)), with or without voting.

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes of the base model, from the packed chunk's first element on, and of the values that each of the K
        models has at its marks; all arrays are of one numba type.
    codes : int64[K + 2]
        Dtype codes of the sources, then that of the output.
    marks : tuple of uint64[:]
        The models' marks, 64 in a word, the lowest bit first, from the packed chunk's first element on.
    bounds : (int, int, int)
        The run in the packed chunk, ``begin:end``, and the element of `out` that the first of the run becomes.
    factors : float32[3, K]
        The models' rescaling factors, their weights, and their shares in the divisor of a mean.
    options : (bool, bool, float32, float32)
        As for `sparsified.sparsified_sum`.
    out : uint8[:]
        Receives the stored bytes of the result.
    totals : (int64[K + 1], int64[K, K], float64[K + 1])
        Sums that the kernel adds to: NaN and infinite values of each source; how many elements both model i and model
        j keep; sums of squares of the kept parts, and of the change.

    Returns
    -------
    int
        The number of elements of the output that are not finite.

    """
    begin, end, place = bounds
    voting, normalize, divisor, factor = options
    nonfinite, pairs, squares = totals
    models, out_code = factors.shape[1], codes[len(codes) - 1]
    base, change, kept = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    tau, mask = np.empty(TILE if voting else 0, np.float32), np.empty(TILE if voting else 0, np.uint8)
    sums, at = np.empty((5 if voting else 0, TILE), np.float32), np.zeros(models, np.int64)
    overflowed = 0
    if begin > 0:
        for j in range(models):
            at[j] = count_words(marks[j], marks[j], 0, begin)
    start = begin
    while start < end:
        stop = min(end, (start // TILE + 1) * TILE)
        count = stop - start
        origin, delta = base[:count], change[:count]
        decode(sources[0], codes[0], start, stop, origin)
        nonfinite[0] += count_nonfinite(origin)
        delta[:] = _ZERO
        sums[:] = _ZERO
        for j in range(models):
            for i in range(j):
                both = count_words(marks[j], marks[i], start, stop)
                pairs[i, j] += both
                pairs[j, i] += both
            found = count_words(marks[j], marks[j], start, stop)
            pairs[j, j] += found
            values = kept[:found]
            decode(sources[j + 1], codes[j + 1], at[j], at[j] + found, values)
            nonfinite[j + 1] += count_nonfinite(values)
            at[j] += found
            scale, weight = factors[0, j], factors[1, j]
            if voting:
                unpack(marks[j], start, stop, values, origin, mask[:count], tau[:count])
                squares[j] += sum_squares(tau[:count])
                add_voting(tau[:count], mask[:count], scale, weight, factors[2, j], sums)
            else:
                _add_kept(marks[j], start, stop, values, origin, scale, weight, delta)
                squares[j] += sum_squares(values)
        if voting:
            elect_signs(sums, normalize, np.float32(-np.inf), delta)
        scale_change(delta, divisor, factor)
        squares[models] += sum_squares(delta)
        add_change(delta, origin)
        overflowed += count_nonfinite(delta)
        written = place + start - begin
        overflowed += encode(delta, out_code, written, written + count, out)
        start = stop
    return overflowed
