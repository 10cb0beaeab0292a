"""n:m selection for blocks of up to 16 elements, as vector code: several blocks in a vector, turned into lanes.

Sixteen blocks stand side by side, one in each lane of vectors of 32-bit integers: vector j holds element j of every
block. A sorting network sorts all blocks at once, without a branch, and its n-th row holds every block's threshold.
Loops do not get there: LLVM vectorises along a block, and short blocks leave it nothing to work with.
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
    concatenate,
    constant,
    count_ones,
    data_of,
    fill,
    integer,
    load,
    offset,
    pick,
    reserve,
    store,
    swap_bits,
    umax,
)
from dovetail.engine.kernels.network import BLOCKS, ZERO, collect, lowest, sort

LONGEST = 16
"""Longest block."""

_ABS = 0x7FFFFFFF


class _Layout:
    """Where the elements of 16 blocks are: in memory, in vectors as loaded, and in vectors with one lane a block."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.bits = range(rows.bit_length() - 1)
        # Follow element `block * rows + row` through the swaps of vector bits with lane bits.
        self.lane_of_block = [self._place(block * rows)[1] for block in range(BLOCKS)]
        self.vector_of_row = [self._place(row)[0] for row in range(rows)]

    def _place(self, element: int) -> tuple[int, int]:
        vector, lane = divmod(element, BLOCKS)
        for bit in self.bits:
            differ = (vector ^ lane) & 1 << bit
            vector, lane = vector ^ differ, lane ^ differ
        return vector, lane

    def lanes(self, vector: int) -> list[int]:
        """Give the lane of the block that each element of a loaded vector belongs to."""
        return [self.lane_of_block[(vector * BLOCKS + lane) // self.rows] for lane in range(BLOCKS)]

    def row(self, lane: int) -> int:
        """Give the row of an element of a loaded vector."""
        return lane % self.rows


def _row_at(builder: Any, rows: list[Any], index: Any) -> Any:
    """Give ``rows[index]`` for an index known only when the code runs."""
    table = reserve(builder, ir.ArrayType(rows[0].type, len(rows)))
    first = builder.bitcast(table, rows[0].type.as_pointer())
    for position, row in enumerate(rows):
        builder.store(row, builder.gep(first, [integer(I64, position)]), align=64)
    return builder.load(builder.gep(first, [index]), align=64)


def _choose(builder: Any, rows: list[Any], needed: Any) -> Any:
    """Give, for every block, an integer with a one for every row selected."""
    last = builder.sub(needed, integer(I64, 1))
    threshold = umax(builder, _row_at(builder, sort(builder, rows), last), constant(I32, [1] * BLOCKS))
    above = collect(builder, [builder.icmp_unsigned(">", row, threshold) for row in rows])
    level = collect(builder, [builder.icmp_unsigned("==", row, threshold) for row in rows])
    left = builder.sub(fill(builder, builder.trunc(needed, I32), BLOCKS), count_ones(builder, above))
    return builder.or_(above, lowest(builder, level, left, len(rows)))


def _make(rows: int, *, dense: bool) -> Any:
    layout = _Layout(rows)
    # A vector holds several blocks: one piece if they lie next to each other without gaps, else one piece a block.
    length = BLOCKS if dense else rows

    def places(builder: Any, start: Any, m: Any) -> list[list[Any]]:
        """Give the first element of every piece of every vector."""
        if dense:
            return [[offset(builder, start, vector * BLOCKS)] for vector in range(rows)]
        every = [builder.add(start, builder.mul(m, integer(I64, block))) for block in range(BLOCKS)]
        return [every[first : first + BLOCKS // rows] for first in range(0, BLOCKS, BLOCKS // rows)]

    @intrinsic
    def select(typing, tau, free, marks, start, m, needed):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            values, open_, target = (data_of(context, builder, signature.args[i], arguments[i]) for i in range(3))
            _, _, _, start, m, needed = arguments
            pieces = places(builder, start, m)
            rows_of_lanes = constant(I32, [layout.row(lane) for lane in range(BLOCKS)])
            inside = builder.icmp_unsigned("<", rows_of_lanes, fill(builder, builder.trunc(m, I32), BLOCKS))
            vectors = []
            for firsts in pieces:
                bits = concatenate(builder, [load(builder, values, first, I32, length, 4) for first in firsts])
                unclaimed = concatenate(builder, [load(builder, open_, first, I16, length, 2) for first in firsts])
                key = builder.and_(bits, constant(I32, [_ABS] * BLOCKS))
                key = builder.and_(key, builder.sext(unclaimed, key.type))
                vectors.append(key if dense else builder.select(inside, key, ZERO))
            for bit in layout.bits:
                vectors = swap_bits(builder, vectors, bit, bit, BLOCKS)
            chosen = _choose(builder, [vectors[layout.vector_of_row[row]] for row in range(rows)], needed)
            own = constant(I32, [1 << layout.row(lane) for lane in range(BLOCKS)])
            for vector, firsts in enumerate(pieces):
                bits = builder.and_(pick(builder, chosen, chosen, layout.lanes(vector)), own)
                kept = builder.sext(builder.icmp_unsigned("!=", bits, ZERO), ir.VectorType(I16, BLOCKS))
                for number, first in enumerate(firsts):
                    lanes = range(number * length, (number + 1) * length)
                    store(builder, pick(builder, kept, kept, lanes), target, first, 2)
            return context.get_dummy_value()

        return types.void(tau, free, marks, types.int64, types.int64, types.int64), generate

    return select


def _plain(tau, free, marks, start, m, needed):  # type: ignore[no-untyped-def]
    stop = start + BLOCKS * m
    keys = tau[start:stop].view(np.uint32).astype(np.int64) & _ABS & np.where(free[start:stop], -1, 0)
    keys = keys.reshape(BLOCKS, m)
    order = np.argsort(-keys, axis=1, kind="stable")[:, :needed]
    kept = np.zeros(keys.shape, np.bool_)
    np.put_along_axis(kept, order, True, axis=1)
    marks[start:stop] = np.where(kept & (keys > 0), 0xFFFF, 0).reshape(-1)


def _network(rows: int, *, dense: bool) -> Any:
    return _plain if settings.DISABLE_JIT else _make(rows, dense=dense)


_dense: list[Any] = [_network(rows, dense=True) for rows in (4, 8, 16)]
_loose: list[Any] = [_network(rows, dense=False) for rows in (4, 8, 16)]

dense_4, dense_8, dense_16 = _dense
loose_4, loose_8, loose_16 = _loose
"""``dense_4(tau, free, marks, start, m, needed)``

Mark the `needed` largest magnitudes among the free elements of each of 16 blocks from `start` on. Equal magnitudes: the
lower index first; zero never. Dense: blocks of exactly 4, 8 or 16 elements. Loose: of m elements, up to as many; marks
beyond the last block, up to 16 of them, are undefined afterwards.
"""
