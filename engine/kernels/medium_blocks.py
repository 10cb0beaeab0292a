"""n:m selection for blocks of 17 to 128 elements, as vector code that sorts sixteen blocks side by side.

Row j of a table holds element j of 16 blocks, one block in each lane of a vector of 32-bit integers. A sorting network
sorts all the blocks at once, without a branch: it sorts 16 rows at a time, and the sorted rows are merged. In blocks of
up to 64 elements, all rows are merged into one list, and its n-th row is the threshold. Longer blocks are left as two
lists, and the threshold is the largest of min(i-th of the first, (n - i)-th of the second) over all i.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import (
    I16,
    I32,
    I64,
    constant,
    count_ones,
    data_of,
    fill,
    integer,
    load,
    loop,
    offset,
    pick,
    reserve,
    store,
    swap_bits,
    umax,
    umin,
)
from dovetail.engine.kernels.network import BLOCKS, ZERO, collect, lowest, merge, sort

LONGEST = 128
"""Most elements of a block."""

SLAB = 16
"""Rows that are transposed and sorted at a time."""

_ABS = 0x7FFFFFFF


def _row(builder: Any, table: Any, number: Any) -> Any:
    return load(builder, table, builder.mul(number, integer(I64, BLOCKS)), I32, BLOCKS, 4)


def _put(builder: Any, row: Any, table: Any, number: Any) -> None:
    store(builder, row, table, builder.mul(number, integer(I64, BLOCKS)), 4)


@intrinsic
def _turn(typing, tau, free, start, m, row, table, ordered, place):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values, open_, table, ordered = (
            data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 5, 6)
        )
        _, _, start, m, row, _, _, place = arguments
        left = fill(builder, builder.trunc(builder.sub(m, row), I32), SLAB)
        inside = builder.icmp_signed("<", constant(I32, list(range(SLAB))), left)
        element, rows = builder.add(start, row), []
        for _ in range(BLOCKS):
            key = builder.and_(load(builder, values, element, I32, SLAB, 4), constant(I32, [_ABS] * SLAB))
            unclaimed = builder.sext(load(builder, open_, element, I16, SLAB, 2), key.type)
            rows.append(builder.select(inside, builder.and_(key, unclaimed), ZERO))
            element = builder.add(element, m)
        for bit in range(SLAB.bit_length() - 1):
            rows = swap_bits(builder, rows, bit, bit, BLOCKS)
        for target, first, several in ((table, row, rows), (ordered, place, sort(builder, rows))):
            for number, each in enumerate(several):
                _put(builder, each, target, offset(builder, first, number))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(tau, free, i64, i64, i64, table, ordered, i64), generate


def _make_merge(rows: int) -> Any:
    @intrinsic
    def merge_rows(typing, ordered, place):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            table = data_of(context, builder, signature.args[0], arguments[0])
            places = [offset(builder, arguments[1], number) for number in range(rows)]
            merged = merge(builder, [_row(builder, table, each) for each in places])
            for row, each in zip(merged, places, strict=True):
                _put(builder, row, table, each)
            return context.get_dummy_value()

        return types.void(ordered, types.int64), generate

    return merge_rows


# Ten arguments, but none is passed: an intrinsic is generated into its caller.
@intrinsic
def _mark(typing, table, ordered, first, second, low, high, needed, marks, start, m):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        rows, ordered, marks = (data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 7))
        _, _, first, second, low, high, needed, _, start, m = arguments

        def largest(number: Any, state: list[Any]) -> list[Any]:
            i = builder.add(low, number)
            one = _row(builder, ordered, builder.add(first, i))
            other = _row(builder, ordered, builder.add(second, builder.sub(needed, i)))
            return [umax(builder, state[0], umin(builder, one, other))]

        ones = constant(I32, [1] * BLOCKS)  # zero is never kept
        (threshold,) = loop(builder, builder.add(builder.sub(high, low), integer(I64, 1)), [ones], largest)
        slabs = builder.lshr(builder.add(m, integer(I64, SLAB - 1)), integer(I64, SLAB.bit_length() - 1))
        memory = reserve(builder, ir.ArrayType(ZERO.type, 2 * LONGEST // SLAB))
        higher = builder.bitcast(memory, I32.as_pointer())
        levels = builder.gep(higher, [integer(I64, LONGEST // SLAB * BLOCKS)])

        def compare(slab: Any, state: list[Any]) -> list[Any]:
            begin = builder.mul(slab, integer(I64, SLAB))
            values = [_row(builder, rows, offset(builder, begin, number)) for number in range(SLAB)]
            above = collect(builder, [builder.icmp_unsigned(">", value, threshold) for value in values])
            level = collect(builder, [builder.icmp_unsigned("==", value, threshold) for value in values])
            _put(builder, above, higher, slab)
            _put(builder, level, levels, slab)
            return [builder.sub(state[0], count_ones(builder, above))]

        everything = fill(builder, builder.trunc(needed, I32), BLOCKS)
        left = loop(builder, slabs, [everything], compare)

        def choose(slab: Any, state: list[Any]) -> list[Any]:
            ties = lowest(builder, _row(builder, levels, slab), state[0], SLAB)
            _put(builder, builder.or_(_row(builder, higher, slab), ties), higher, slab)
            return [builder.sub(state[0], count_ones(builder, ties))]

        loop(builder, slabs, left, choose)
        own = constant(I32, [1 << lane for lane in range(SLAB)])

        def spread(number: Any, state: list[Any]) -> list[Any]:
            # From the last slab to the first, because marks beyond the end of a block are the first of the next block.
            slab = builder.sub(builder.sub(slabs, integer(I64, 1)), number)
            chosen, place = _row(builder, higher, slab), builder.add(start, builder.mul(slab, integer(I64, SLAB)))
            for block in range(BLOCKS):
                bits = builder.and_(pick(builder, chosen, chosen, [block] * SLAB), own)
                kept = builder.icmp_unsigned("!=", bits, ZERO)
                store(builder, builder.sext(kept, ir.VectorType(I16, SLAB)), marks, place, 2)
                place = builder.add(place, m)
            return []

        loop(builder, slabs, [], spread)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(table, ordered, i64, i64, i64, i64, i64, marks, i64, i64), generate


def _plain_turn(tau, free, start, m, row, table, ordered, place):  # type: ignore[no-untyped-def]
    rows, sorted_ = table.reshape(-1, BLOCKS)[row : row + SLAB], ordered.reshape(-1, BLOCKS)[place : place + SLAB]
    rows[:] = 0
    for block in range(BLOCKS):
        part = slice(start + block * m + row, start + block * m + min(row + SLAB, m))
        bits = tau[part].view(np.uint32) & np.uint32(_ABS)
        rows[: len(bits), block] = np.where(free[part], bits, np.uint32(0))
    sorted_[:] = np.sort(rows, axis=0)[::-1]


def _make_plain_merge(rows: int) -> Any:
    def merge_rows(ordered, place):  # type: ignore[no-untyped-def]
        part = ordered.reshape(-1, BLOCKS)[place : place + rows]
        part[:] = np.sort(part, axis=0)[::-1]

    return merge_rows


def _plain_mark(table, ordered, first, second, low, high, needed, marks, start, m):  # type: ignore[no-untyped-def]
    values, ordered = table.reshape(-1, BLOCKS)[:m], ordered.reshape(-1, BLOCKS)
    one, other = (
        ordered[[begin + i for i in counts]]
        for begin, counts in ((first, range(low, high + 1)), (second, range(needed - low, needed - high - 1, -1)))
    )
    threshold = np.maximum(np.minimum(one, other).max(axis=0), 1)
    level = values == threshold
    left = needed - np.sum(values > threshold, axis=0)
    kept = (values > threshold) | (level & (np.cumsum(level, axis=0) <= left))
    marks[start : start + BLOCKS * m] = np.where(kept.T.reshape(-1), 0xFFFF, 0)


turn_slab: Any = _plain_turn if settings.DISABLE_JIT else _turn
"""``turn_slab(tau, free, start, m, row, table, ordered, place)``

Transpose elements ``row : row + 16`` of 16 neighbouring blocks into 16 rows of a table, and sort them into 16 rows of
another.

Parameters
----------
tau : float32[:]
    The values; the tables receive their magnitudes.
free : uint16[:]
    0xFFFF where an element may be selected, else 0: the tables receive 0 for the others, and beyond the end of a block.
start, m : int
    First element of the first block, and elements of a block.
row : int
    First element within each block, and first row of `table`.
table, ordered : uint32[:]
    Receive the rows, `ordered` from the largest to the smallest.
place : int
    First row of `ordered`.
"""

_merges: list[Any] = [(_make_plain_merge if settings.DISABLE_JIT else _make_merge)(rows) for rows in (32, 64)]

merge_32, merge_64 = _merges
"""``merge_32(ordered, place)``

Merge 32 rows of `ordered` from row `place` on, of which each half is sorted; `merge_64` merges 64 rows.
"""

mark_blocks: Any = _plain_mark if settings.DISABLE_JIT else _mark
"""``mark_blocks(table, ordered, first, second, low, high, needed, marks, start, m)``

Mark the `needed` largest elements of each of 16 blocks; of equal elements the lower index comes first, and zeros are
never marked.

Parameters
----------
table : uint32[:]
    The blocks, transposed, with rows of zeros up to a multiple of 16 rows.
ordered : uint32[:]
    Two sorted lists that make up the blocks.
first, second : int
    The row before each list; it holds the largest integer in every lane.
low, high : int
    Least and greatest number of elements that can come from the first list.
needed : int
    How many elements to mark in each block.
marks : uint16[:]
    Receives 0xFFFF where an element is marked, else 0. Up to 16 marks beyond the last block are undefined afterwards.
start, m : int
    First element of the first block, and elements of a block.
"""
