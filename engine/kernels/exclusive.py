"""CABS with its default options, fused into one call for each chunk; at most one model keeps an element.

A chunk is computed tile by tile and, within a tile, model by model: the task vector, the selection among the elements
that no earlier model has claimed (see `selection`), the claims, and the contributions to the result. Every input
element is read once, every output element is written once, and all else stays in scratch memory of the size of a tile.

CABS: https://arxiv.org/abs/2503.01874, algorithm 1. The kernels of `general` give the same masks, for all options.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from math import lcm
from typing import Any

import numpy as np
from numba import njit

from dovetail.engine.kernels.contribution import claim_and_add
from dovetail.engine.kernels.convert import BF16, ITEMSIZES, decode, encode
from dovetail.engine.kernels.selection import SLACK, TABLE_ELEMENTS, fill, plane_elements, select, whole_span
from dovetail.engine.kernels.statistics import count_nonfinite

TILE = 1 << 14
"""Elements that a tile should have, so that its scratch memory fits in the L2 cache of a core."""

LARGEST_TILE = 1 << 16
"""Most elements of a tile: a tile may grow to this size in order to hold whole blocks of every model."""

ALIGNMENT_BYTES = 64
"""Bytes of a cache line, which is also as long as the widest vectors."""

_ABS = np.uint32(0x7FFFFFFF)
_EXP = np.uint32(0x7F800000)


@functools.cache
def tile_elements(m: tuple[int, ...]) -> int | None:
    """Choose the elements of a tile that holds whole blocks of every model; None if it would exceed `LARGEST_TILE`."""
    spans = [whole_span(each) for each in m]
    common, blocks = lcm(*spans), lcm(*m)
    if max(blocks, *spans) > LARGEST_TILE:
        return None
    if common <= LARGEST_TILE:  # then the tile also holds whole spans, which is faster
        return max(common, TILE // common * common)
    return LARGEST_TILE // blocks * blocks


def make_scratch(tile: int, m: Sequence[int]) -> tuple[Any, ...]:
    """Allocate the scratch memory of `exclusive_chunk`.

    Parameters
    ----------
    tile : int
        Elements that are computed at a time; a multiple of every m.
    m : sequence of int
        For each model, the elements of a block.

    Returns
    -------
    tuple
        Tiles of float32, tiles of uint16, the scratch memory of `select`, and `tile`.

    """
    longest, plane = _lengths(tile, m)
    floats = _aligned(3 * longest, np.float32).reshape(3, longest)
    words = _aligned(2 * longest, np.uint16).reshape(2, longest)
    tables = _aligned(TABLE_ELEMENTS, np.uint32), _aligned(TABLE_ELEMENTS, np.uint32)
    return floats, words, (*tables, _aligned(plane, np.uint16), _aligned(plane, np.uint16)), tile


_thread = threading.local()


def thread_scratch(tile: int, m: tuple[int, ...]) -> tuple[Any, ...]:
    """Give this thread's scratch memory, which is allocated again only where its lengths change.

    Small tensors would otherwise spend their time on the allocation. The kernel never reads what earlier tiles, of this
    tensor or another, have left in the memory.
    """
    if getattr(_thread, "lengths", None) != (tile, m):
        _thread.scratch, _thread.lengths = make_scratch(tile, m), (tile, m)
    scratch: tuple[Any, ...] = _thread.scratch
    return scratch


def scratch_bytes(tile: int, m: Sequence[int]) -> int:
    """Give the number of bytes that `make_scratch` allocates."""
    longest, plane = _lengths(tile, m)
    return 16 * longest + 8 * TABLE_ELEMENTS + 4 * plane + 6 * ALIGNMENT_BYTES


def _lengths(tile: int, m: Sequence[int]) -> tuple[int, int]:
    """Give the length of the arrays that hold a tile, and that of the planes for the selection from long blocks."""
    longest = tile + max(whole_span(each) for each in m) + SLACK
    line = ALIGNMENT_BYTES // 2  # so that every row of an array is aligned
    return -(-longest // line) * line, max(plane_elements(each) for each in m)


def _aligned(length: int, dtype: type) -> Any:
    """Allocate zeros from the beginning of a cache line on, so that no vector straddles two cache lines."""
    size_bytes = length * np.dtype(dtype).itemsize
    memory = np.zeros(size_bytes + ALIGNMENT_BYTES, np.uint8)
    skip_bytes = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[skip_bytes : skip_bytes + size_bytes].view(dtype)


@njit(nogil=True, cache=True)
def _task_vector(raw, code, first, base, tau):  # type: ignore[no-untyped-def]
    """Compute the task vector tau = W - W0, and give the largest magnitude in it, as bits."""
    count = len(tau)
    top = np.uint32(0)
    if code == BF16:
        stored = raw[2 * first : 2 * (first + count)].view(np.uint16)
        for i in range(count):
            value = np.uint32(np.uint32(stored[i]) << np.uint32(16)).view(np.float32)
            change = np.float32(value - base[i])
            tau[i] = change
            top = max(top, np.uint32(np.float32(change).view(np.uint32) & _ABS))
        return top
    decode(raw, code, first, first + count, tau)
    for i in range(count):
        change = np.float32(tau[i] - base[i])
        tau[i] = change
        top = max(top, np.uint32(np.float32(change).view(np.uint32) & _ABS))
    return top


@njit(nogil=True, cache=True)
def select_free(tau, n, m, free, marks, memory, ahead, mask):  # type: ignore[no-untyped-def]
    """Select what a model keeps of a run that begins with a block, and claim it.

    Parameters
    ----------
    tau : float32[:]
        The task vector of the run, as `selection.select` needs it.
    n, m : int
        How many elements of a block the model keeps, and how many a block has.
    free, marks, memory
        As for `selection.select`; `free` loses what the model keeps.
    ahead : uint8[:]
        Nothing.
    mask : uint8[:]
        Receives 1 where the model keeps an element of the run, else 0.

    """
    select(tau, free, marks, len(mask), m, n, memory, ahead)
    for i in range(len(mask)):
        free[i] &= np.uint16(~marks[i])
        mask[i] = np.uint8(marks[i] & np.uint16(1))


@njit(nogil=True, cache=True)
def exclusive_chunk(sources, codes, blocks, weights, bounds, scratch, out, totals):  # type: ignore[no-untyped-def]
    """Merge one chunk by CABS with ``overlap: forbid`` (algorithm 1 of the paper).

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes of the base model and of the K models: elements ``window_start:window_stop`` of each.
    codes : int64[K + 2]
        Dtype codes of the sources, then that of the output.
    blocks : int64[2, K]
        For each model, n and m: how many elements it keeps of each block, and how many elements a block has.
    weights : float32[K]
        The models' weights.
    bounds : int64[4]
        ``window_start, window_stop, start, stop``: the kernel reads the window and writes elements ``start:stop``. The
        window begins where a block of every model begins, and ends where one of every model ends or with the tensor.
    scratch : tuple
        What `make_scratch` has allocated.
    out : uint8[:]
        Receives the stored bytes of elements ``start:stop`` of the result.
    totals : (int64[K + 1], int64[K], float64[2, K])
        Sums that the kernel adds to: NaN and infinite elements of each source; elements that each model keeps; sums of
        squares of each model's task vector, and of the part that it keeps.

    Returns
    -------
    int
        The number of elements of the output that are not finite.

    """
    n, m = blocks[0], blocks[1]
    window_start, window_stop, start, stop = bounds
    nonfinite, kept, squares = totals
    floats, words, memory, tile = scratch
    base, tau, merged = floats[0], floats[1], floats[2]
    free, marks = words[0], words[1]
    overflowed = 0
    for first in range(window_start, window_stop, tile):
        count = min(tile, window_stop - first)
        inner, outer = max(start - first, 0), min(stop - first, count)
        if inner >= outer:
            continue
        offset = first - window_start
        decode(sources[0], codes[0], offset, offset + count, base)
        fill(free, np.int64(0), count, np.uint16(0xFFFF))
        top = np.uint32(0)
        for j in range(len(n)):
            largest = _task_vector(sources[j + 1], codes[j + 1], offset, base[:count], tau[:count])
            top = max(top, largest)
            # While this model's changes are selected, the processor fetches what is read next: the tile of the next
            # source or, after the last one, the base model's next tile.
            following = (j + 2) % len(sources)
            size = ITEMSIZES[codes[following]]
            begin = (offset if following else offset + tile) * size
            ahead = sources[following][begin : begin + count * size]
            select(tau, free, marks, count, m[j], n[j], memory, ahead)
            before = merged if j else base
            if inner:
                claim_and_add(marks, tau, weights[j], free, base, before, merged, 0, inner)
            found, total, part = claim_and_add(marks, tau, weights[j], free, base, before, merged, inner, outer)
            if outer < count:
                claim_and_add(marks, tau, weights[j], free, base, before, merged, outer, count)
            kept[j] += found
            squares[0, j] += total
            squares[1, j] += part
        if top >= _EXP:
            for j in range(len(sources)):
                decode(sources[j], codes[j], offset, offset + count, tau)
                nonfinite[j] += count_nonfinite(tau[inner:outer])
        overflowed += count_nonfinite(merged[inner:outer])
        written = first + inner - start
        overflowed += encode(merged[inner:outer], codes[-1], written, written + outer - inner, out)
    return overflowed
