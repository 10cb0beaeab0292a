"""n:m selection for blocks of up to 16 elements, as vector code that sorts sixteen blocks within registers.

Vectors with several blocks in each are transposed, so that sixteen blocks stand side by side, one in each lane: vector
j holds element j of every block, as 32-bit integers. A sorting network sorts all the blocks at once, without a branch;
its n-th row holds the threshold of every block. Plain loops would not become such code: LLVM makes vectors of
neighbouring elements of one block, and short blocks have too few.
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
"""Most elements of a block."""

_ABS = 0x7FFFFFFF


class _Layout:
    """Where the elements of 16 blocks are: in vectors as they are loaded, and in vectors with a lane for each block."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.bits = range(rows.bit_length() - 1)
        # The transposition swaps bits of vector numbers with bits of lane numbers: follow element `block * rows + row`.
        self.lane_of_block = [self._place(block * rows)[1] for block in range(BLOCKS)]
        self.vector_of_row = [self._place(row)[0] for row in range(rows)]

    def _place(self, element: int) -> tuple[int, int]:
        vector, lane = divmod(element, BLOCKS)
        for bit in self.bits:
            differ = (vector ^ lane) & 1 << bit
            vector, lane = vector ^ differ, lane ^ differ
        return vector, lane

    def lanes(self, vector: int) -> list[int]:
        """Give, for each element of a loaded vector, the lane of its block after the transposition."""
        return [self.lane_of_block[(vector * BLOCKS + lane) // self.rows] for lane in range(BLOCKS)]

    def row(self, lane: int) -> int:
        """Give the row, after the transposition, of the element in a lane of a loaded vector."""
        return lane % self.rows


def _row_at(builder: Any, rows: list[Any], index: Any) -> Any:
    """Generate ``rows[index]`` for an index that is known only when the code runs."""
    table = reserve(builder, ir.ArrayType(rows[0].type, len(rows)))
    first = builder.bitcast(table, rows[0].type.as_pointer())
    for position, row in enumerate(rows):
        builder.store(row, builder.gep(first, [integer(I64, position)]), align=64)
    return builder.load(builder.gep(first, [index]), align=64)


def _choose(builder: Any, rows: list[Any], needed: Any) -> Any:
    """Generate, for every block, an integer with a bit set for every row that is selected."""
    last = builder.sub(needed, integer(I64, 1))
    threshold = umax(builder, _row_at(builder, sort(builder, rows), last), constant(I32, [1] * BLOCKS))
    above = collect(builder, [builder.icmp_unsigned(">", row, threshold) for row in rows])
    level = collect(builder, [builder.icmp_unsigned("==", row, threshold) for row in rows])
    left = builder.sub(fill(builder, builder.trunc(needed, I32), BLOCKS), count_ones(builder, above))
    return builder.or_(above, lowest(builder, level, left, len(rows)))


def _make(rows: int, *, dense: bool) -> Any:
    layout = _Layout(rows)
    # A vector holds several blocks. It is loaded in one go if blocks fill it without gaps, else block by block.
    length = BLOCKS if dense else rows

    def places(builder: Any, start: Any, m: Any) -> list[list[Any]]:
        """Generate the index of the first element of every part of every vector."""
        if dense:
            return [[offset(builder, start, vector * BLOCKS)] for vector in range(rows)]
        every = [builder.add(start, builder.mul(m, integer(I64, block))) for block in range(BLOCKS)]
        return [every[first : first + BLOCKS // rows] for first in range(0, BLOCKS, BLOCKS // rows)]

    @intrinsic
    def select(typing, tau, free, marks, start, m, needed):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            values, open_, target = (data_of(context, builder, signature.args[i], arguments[i]) for i in range(3))
            _, _, _, start, m, needed = arguments
            parts = places(builder, start, m)
            rows_of_lanes = constant(I32, [layout.row(lane) for lane in range(BLOCKS)])
            inside = builder.icmp_unsigned("<", rows_of_lanes, fill(builder, builder.trunc(m, I32), BLOCKS))
            vectors = []
            for firsts in parts:
                bits = concatenate(builder, [load(builder, values, first, I32, length, 4) for first in firsts])
                unclaimed = concatenate(builder, [load(builder, open_, first, I16, length, 2) for first in firsts])
                key = builder.and_(bits, constant(I32, [_ABS] * BLOCKS))
                key = builder.and_(key, builder.sext(unclaimed, key.type))
                vectors.append(key if dense else builder.select(inside, key, ZERO))
            for bit in layout.bits:
                vectors = swap_bits(builder, vectors, bit, bit, BLOCKS)
            chosen = _choose(builder, [vectors[layout.vector_of_row[row]] for row in range(rows)], needed)
            own = constant(I32, [1 << layout.row(lane) for lane in range(BLOCKS)])
            for vector, firsts in enumerate(parts):
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

Mark the `needed` largest magnitudes among the free elements of each of 16 neighbouring blocks; of equal magnitudes the
lower index comes first, and zeros are never marked.

The dense kernels serve blocks of exactly 4, 8 or 16 elements, and the loose ones blocks of up to as many; up to 16
marks beyond the last block are undefined afterwards.

Parameters
----------
tau : float32[:]
    The values.
free : uint16[:]
    0xFFFF where an element may be selected, else 0.
marks : uint16[:]
    Receives 0xFFFF where an element is selected, else 0.
start, m : int
    First element of the first block, and elements of a block.
needed : int
    How many elements to mark in each block.
"""
