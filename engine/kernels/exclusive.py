"""CABS as it is by default, fused: at most one model keeps an element, and each chunk takes one call.

A chunk is computed tile by tile, model by model: task vector, selection among the elements that no earlier model has
claimed, claims, contribution. Every input element is read once and every output element written once; all else stays
in scratch memory of the size of a tile. Selection is in `vectors`.

CABS: https://arxiv.org/abs/2503.01874, algorithm 1. `general` gives the same masks for every option.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import lcm

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import BF16, decode, encode
from dovetail.engine.kernels.statistics import count_nonfinite, sum_squares
from dovetail.engine.kernels.vectors import (
    LANES,
    select_lanes,
    select_lanes_2,
    select_lanes_4,
    select_lanes_8,
    transpose_lanes,
)

TILE = 1 << 14
"""Elements that a tile should have: its scratch memory fits in a core's own cache."""

LARGEST_TILE = 1 << 16
"""Most elements that a tile may have so that it holds whole blocks of every model."""

_SQUARE = LANES * LANES
_ABS = np.uint32(0x7FFFFFFF)
_EXP = np.uint32(0x7F800000)


@functools.cache
def tile_elements(m: tuple[int, ...]) -> int | None:
    """Give the length of a tile that holds whole blocks of every model, or None if none does within bounds."""
    spans = [_span(padded(each)) // padded(each) * each for each in m]
    common, blocks = lcm(*spans), lcm(*m)
    if max(blocks, *spans) > LARGEST_TILE:
        return None
    if common <= LARGEST_TILE:  # no span is cut short
        return max(common, TILE // common * common)
    return LARGEST_TILE // blocks * blocks


def make_scratch(tile: int, m: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Allocate what `exclusive_chunk` works in: float32[3, tile], uint16[3, tile + span] and uint16[4, span]."""
    span = max(_span(padded(each)) for each in m)
    return np.empty((3, tile), np.float32), np.empty((3, tile + span), np.uint16), np.empty((4, span), np.uint16)


def scratch_bytes(tile: int, m: Sequence[int]) -> int:
    """Give the bytes that `make_scratch` allocates."""
    span = max(_span(padded(each)) for each in m)
    return 12 * tile + 6 * (tile + span) + 8 * span


@njit(nogil=True, cache=True)
def padded(m: int) -> int:
    """Give the length that blocks of m get by zeros at their ends, which are never selected, so that squares fit."""
    if m > LANES:
        return (m + LANES - 1) // LANES * LANES
    length = 1
    while length < m:
        length *= 2
    return length


@njit(nogil=True, cache=True)
def _span(m: int) -> int:
    """Give the number of elements, of padded blocks, that are selected from at once: a multiple of `LANES` blocks."""
    if m <= LANES:
        return 2 * _SQUARE if m == LANES else _SQUARE
    return 2 * LANES * m if m <= 256 else LANES * m


@njit(nogil=True, cache=True)
def _copy_blocks(source, start, stride, target, place, distance, m, blocks):  # type: ignore[no-untyped-def]
    """Copy blocks of m elements, at `start` and every `stride`, to `place` and every `distance`."""
    if m < LANES:  # short runs cost more than steps
        for i in range(m):
            for block in range(blocks):
                target[place + block * distance + i] = source[start + block * stride + i]
    else:
        for block in range(blocks):
            for i in range(m):
                target[place + block * distance + i] = source[start + block * stride + i]


@njit(nogil=True, cache=True)
def select(high, low, count, n, m, rows):  # type: ignore[no-untyped-def]
    """Select the n largest magnitudes of every block of m; equal ones: lower index first; zeros never.

    Blocks are turned into columns, span by span, and back. Up to `LANES` elements, a row of a square holds several
    whole blocks; beyond that, a block goes through several squares.

    Parameters
    ----------
    high, low : uint16[:]
        Upper and lower halves of the magnitudes, at least `count` and a span long. `high` is overwritten: all ones
        where selected, else zero. `low` is destroyed.
    count : int
        Elements; the last block may be short.
    n, m : int
        Elements to keep, and in a block.
    rows : uint16[4, span]
        Scratch.

    """
    if n == 0:
        high[:count] = 0
        return
    length = padded(m)
    span = _span(length)
    blocks = span // length
    end = (count + blocks * m - 1) // (blocks * m) * (blocks * m)
    high[count:end] = 0
    low[count:end] = 0
    stride = max(length, LANES)
    upper, lower, wide_upper, wide_lower = rows[0], rows[1], rows[2], rows[3]
    for start in range(0, count, blocks * m):
        from_upper, from_lower, place = high, low, start
        if m != length:
            from_upper, from_lower, place = wide_upper, wide_lower, 0
            wide_upper[:span] = 0
            wide_lower[:span] = 0
            _copy_blocks(high, start, m, wide_upper, 0, length, m, blocks)
            _copy_blocks(low, start, m, wide_lower, 0, length, m, blocks)
        for square in range(0, span, _SQUARE):
            group, column = square // (LANES * stride), square % (LANES * stride) // LANES
            first = place + group * LANES * stride + column
            transpose_lanes(from_upper, first, stride, upper, square, LANES)
            transpose_lanes(from_lower, first, stride, lower, square, LANES)
        if length <= 4:
            for row in range(0, span, 8 * LANES * length):
                select_lanes_8(upper, lower, row, length, n)
        elif length == 8:
            select_lanes_4(upper, lower, 0, length, n)
        elif span == 2 * LANES * length:
            select_lanes_2(upper, lower, 0, length, n)
        else:
            select_lanes(upper, lower, 0, length, n)
        for square in range(0, span, _SQUARE):
            group, column = square // (LANES * stride), square % (LANES * stride) // LANES
            first = place + group * LANES * stride + column
            transpose_lanes(upper, square, LANES, from_upper, first, stride)
        if m != length:
            _copy_blocks(wide_upper, 0, length, high, start, m, m, blocks)


@njit(nogil=True, cache=True)
def _task_vector(raw, code, first, base, free, tau, high, low):  # type: ignore[no-untyped-def]
    """Compute tau = W - W0 and the magnitudes of its free elements; give the largest magnitude of all."""
    count = len(tau)
    top = np.uint32(0)
    if code == BF16:
        stored = raw.view(np.uint16)[first : first + count]
        for i in range(count):
            value = np.uint32(np.uint32(stored[i]) << np.uint32(16)).view(np.float32)
            change = np.float32(value - base[i])
            tau[i] = change
            bits = np.uint32(np.float32(change).view(np.uint32) & _ABS)
            top = max(top, bits)
            high[i] = np.uint16(bits >> np.uint32(16)) & free[i]
            low[i] = np.uint16(bits & np.uint32(0xFFFF)) & free[i]
        return top
    decode(raw, code, first, first + count, tau)
    for i in range(count):
        change = np.float32(tau[i] - base[i])
        tau[i] = change
        bits = np.uint32(np.float32(change).view(np.uint32) & _ABS)
        top = max(top, bits)
        high[i] = np.uint16(bits >> np.uint32(16)) & free[i]
        low[i] = np.uint16(bits & np.uint32(0xFFFF)) & free[i]
    return top


@njit(nogil=True, cache=True)
def _add_kept(marks, tau, weight, base, free, result):  # type: ignore[no-untyped-def]
    """Claim the marked elements, add their contribution to the result, and set the rest of tau to zero."""
    for i in range(len(tau)):
        mark = marks[i]
        free[i] = np.uint16(free[i] & (np.uint16(0xFFFF) ^ mark))
        value = tau[i] if mark else np.float32(0.0)
        change = np.float32(weight * value)
        # Where the change is zero the base stands, so that -0.0 stays what it is.
        result[i] = np.float32(base[i] + change) if change != np.float32(0.0) else result[i]
        tau[i] = value


@njit(nogil=True, cache=True)
def _count_marks(marks):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for i in range(len(marks)):
        total += np.int64(marks[i] & np.uint16(1))
    return total


@njit(nogil=True, cache=True)
def exclusive_chunk(sources, codes, n, m, weights, bounds, scratch, out, kept, squares, nonfinite):  # type: ignore[no-untyped-def]
    """Merge one chunk by CABS with ``overlap: forbid``.

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes of the base model and the K models, elements ``window_start`` up to ``window_stop`` of each.
    codes : int64[K + 2]
        Dtype codes of the sources, then of the output.
    n, m : int64[K]
        Elements that each model keeps in a block, and that a block has.
    weights : float32[K]
        The models' weights.
    bounds : int64[4]
        ``window_start, window_stop, start, stop``. The window starts at a block boundary of every model, and ends at
        one or at the end of the tensor; elements ``start:stop`` are written.
    scratch : (float32[3, tile], uint16[3, tile + span], uint16[4, span])
        From `make_scratch`.
    out : uint8[:]
        Receives the stored bytes of ``start:stop``.
    kept : int64[K]
        Elements that each model keeps; added to.
    squares : float64[2, K]
        Sums of squares of each model's task vector, and of what is kept of it; added to.
    nonfinite : int64[K + 1]
        NaN and infinite elements of each source; added to.

    Returns
    -------
    int
        Elements of the output that are not finite.

    """
    window_start, window_stop, start, stop = bounds
    floats, words, rows = scratch
    tile = floats.shape[1]
    overflowed = 0
    for first in range(window_start, window_stop, tile):
        count = min(tile, window_stop - first)
        inner, outer = max(start - first, 0), min(stop - first, count)
        if inner >= outer:
            continue
        base, tau, result = floats[0, :count], floats[1, :count], floats[2, :count]
        high, low, free = words[0], words[1], words[2, :count]
        offset = first - window_start
        decode(sources[0], codes[0], offset, offset + count, base)
        for i in range(count):
            result[i] = base[i]
        for i in range(count):
            free[i] = np.uint16(0xFFFF)
        top = np.uint32(0)
        for j in range(len(n)):
            largest = _task_vector(sources[j + 1], codes[j + 1], offset, base, free, tau, high, low)
            top = max(top, largest)
            squares[0, j] += sum_squares(tau[inner:outer])
            select(high, low, count, n[j], m[j], rows)
            _add_kept(high, tau, weights[j], base, free, result)
            squares[1, j] += sum_squares(tau[inner:outer])
            kept[j] += _count_marks(high[inner:outer])
        if top >= _EXP:
            for j in range(len(sources)):
                decode(sources[j], codes[j], offset, offset + count, tau)
                nonfinite[j] += count_nonfinite(tau[inner:outer])
        overflowed += count_nonfinite(result[inner:outer])
        written = first + inner - start
        overflowed += encode(result[inner:outer], codes[-1], written, written + outer - inner, out)
    return overflowed
