"""Merging packed parts of task vectors: marks of one bit, and the models' values at the marks.

The kernel takes the steps of `sparsified.sparsified_sum`, and finds the kept elements by their marks rather than by
choosing them. All arithmetic is float32, every operation is
rounded by itself, and models are added in order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.bits import count_ones
from dovetail.engine.kernels.convert import BF16, ITEMSIZES, decode, encode
from dovetail.engine.kernels.election import add_voting, elect_signs, scale_change
from dovetail.engine.kernels.expansion import (
    LANES,
    SLACK,
    WORD,
    add_word,
    add_words,
    spread_word,
    spread_words,
    total_lanes,
)
from dovetail.engine.kernels.statistics import count_nonfinite
from dovetail.engine.kernels.stored_words import merge_words
from dovetail.engine.kernels.sums import sum_squares
from dovetail.engine.kernels.task_vectors import add_change

TILE = 4096
"""Elements of a tile: few enough for the L1 and L2 caches; whole words of marks."""

_ALL, _ONE = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1)
_ZERO, _UNIT = np.float32(0.0), np.float32(1.0)


@njit(nogil=True, cache=True)
def _within(words, index, begin, end):  # type: ignore[no-untyped-def]
    """Give a word of marks without those of elements outside ``begin:end``."""
    word, first = words[index], index * WORD
    if first < begin:
        word &= _ALL << np.uint64(begin - first)
    if first + WORD > end:
        word &= _ALL >> np.uint64(first + WORD - end)
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
    first, last, count = begin // WORD, end // WORD, 0
    for index in range(first + 1, last):
        count += count_ones(np.uint64(words[index] & other[index]))
    count += count_ones(np.uint64(_within(words, first, begin, end) & other[first]))
    if first < last and last * WORD < end:
        count += count_ones(np.uint64(_within(words, last, begin, end) & other[last]))
    return count


@njit(nogil=True, cache=True)
def unpack(words, begin, end, values, origin, tau):  # type: ignore[no-untyped-def]
    """Unpack a run of elements into a task vector that is zero where the model keeps nothing.

    Parameters
    ----------
    words : uint64[:]
        Marks, as for `count_words`.
    begin, end : int
        The run; `end` is above `begin`.
    values : float32[:]
        The model's values at the marks of the run, and `SLACK` elements of any values.
    origin : float32[:]
        The base model's values of the run.
    tau : float32[:]
        Receives the kept part of the task vector.

    """
    first, last, at = (begin + WORD - 1) // WORD, end // WORD, 0
    if begin < first * WORD:
        word = np.uint64(_within(words, first - 1, begin, end) >> np.uint64(begin - (first - 1) * WORD))
        at = spread_word(word, 0, min(first * WORD, end) - begin, values, at, origin, tau)
    if first < last:
        at = spread_words(words, first, last - first, values, at, origin, tau, first * WORD - begin)
    if first <= last and last * WORD < end:
        spread_word(_within(words, last, begin, end), last * WORD - begin, end - begin, values, at, origin, tau)


@njit(nogil=True, cache=True)
def unmark(words, begin, end, mask):  # type: ignore[no-untyped-def]
    """Unpack the marks of a run of elements into bytes.

    Parameters
    ----------
    words, begin, end
        As for `unpack`.
    mask : uint8[:]
        Receives 1 where the model keeps the element, else 0.

    """
    for i in range(end - begin):
        place = begin + i
        mask[i] = np.uint8((words[place >> 6] >> np.uint64(place & 63)) & _ONE)


@njit(nogil=True, cache=True)
def add_kept(words, begin, end, values, origin, scale, weight, total):  # type: ignore[no-untyped-def]
    """Add the contributions of the kept elements of a run.

    Parameters
    ----------
    words, begin, end, values, origin
        As for `unpack`.
    scale, weight : float32
        What the kept changes are multiplied by, one after the other.
    total : float32[:]
        The sum of the run, to which the kernel adds.

    Returns
    -------
    float
        The sum of squares of the kept changes.

    """
    first, last, at, squares = (begin + WORD - 1) // WORD, end // WORD, 0, 0.0
    lanes = np.zeros(LANES, np.float64)
    if begin < first * WORD:
        word, high = _within(words, first - 1, begin, end) >> np.uint64(begin - (first - 1) * WORD), first * WORD
        at = add_word(np.uint64(word), 0, min(high, end) - begin, values, at, origin, total, scale, weight, lanes)
    if first < last:
        place = first * WORD - begin
        at, squares = add_words(words, first, last - first, values, at, origin, total, place, scale, weight)
    if first <= last and last * WORD < end:
        word, low = _within(words, last, begin, end), last * WORD - begin
        add_word(word, low, end - begin, values, at, origin, total, scale, weight, lanes)
    return squares + total_lanes(lanes)


@njit(nogil=True, cache=True)
def _sum_squares(values):  # type: ignore[no-untyped-def]
    """Sum the squares of a tile, element i being added to partial sum i modulo 16."""
    lanes = np.zeros(LANES, np.float64)
    for i in range(0, len(values), LANES):
        row = values[i : i + LANES]
        for lane in range(len(row)):
            lanes[lane] += np.float64(row[lane]) * np.float64(row[lane])
    return total_lanes(lanes)


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
    base, change, kept = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE + SLACK, np.float32)
    tau, mask = np.empty(TILE if voting else 0, np.float32), np.empty(TILE if voting else 0, np.uint8)
    sums, at, found = np.empty((5 if voting else 0, TILE), np.float32), np.zeros(models, np.int64), np.zeros_like(pairs)
    swept, overflowed = np.empty(models + 1, np.float64), 0
    is_plain = not voting and divisor == _UNIT
    for code in codes:
        is_plain &= code == BF16
    if begin > 0:
        for j in range(models):
            at[j] = count_words(marks[j], marks[j], 0, begin)
    start = begin
    while start < end:
        stop = min(end, (start // TILE + 1) * TILE)
        count = stop - start
        written = place + start - begin
        is_whole = is_plain and start % WORD == 0 and count % WORD == 0
        for j in range(models):
            for i in range(j + 1):
                found[i, j] = count_words(marks[j], marks[i], start, stop)
                pairs[i, j] += found[i, j]
                if i != j:
                    pairs[j, i] += found[i, j]
            # The sweep loads some values more than it uses, which the last tile does not have.
            is_whole &= at[j] + found[j, j] + SLACK <= len(sources[j + 1]) // ITEMSIZES[BF16]
        if is_whole and merge_words(
            sources[0], sources[1:], marks, start // WORD, count // WORD, at, factors, factor, out, written, swept
        ):
            for j in range(models):
                squares[j] += swept[j]
                at[j] += found[j, j]
            squares[models] += swept[models]
            start = stop
            continue
        origin, delta = base[:count], change[:count]
        decode(sources[0], codes[0], start, stop, origin)
        nonfinite[0] += count_nonfinite(origin)
        delta[:] = _ZERO
        sums[:] = _ZERO
        for j in range(models):
            values = kept[: found[j, j] + SLACK]
            decode(sources[j + 1], codes[j + 1], at[j], at[j] + found[j, j], values)
            nonfinite[j + 1] += count_nonfinite(values[: found[j, j]])
            at[j] += found[j, j]
            scale, weight = factors[0, j], factors[1, j]
            if voting:
                unpack(marks[j], start, stop, values, origin, tau[:count])
                unmark(marks[j], start, stop, mask[:count])
                squares[j] += sum_squares(tau[:count])
                add_voting(tau[:count], mask[:count], scale, weight, factors[2, j], sums)
            else:
                squares[j] += add_kept(marks[j], start, stop, values, origin, scale, weight, delta)
        if voting:
            elect_signs(sums, normalize, np.float32(-np.inf), delta)
        scale_change(delta, divisor, factor)
        squares[models] += _sum_squares(delta)
        add_change(delta, origin)
        overflowed += count_nonfinite(delta)
        overflowed += encode(delta, out_code, written, written + count, out)
        start = stop
    return overflowed
