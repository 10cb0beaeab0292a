"""The vector code of n:m selection, written out: one lane for every block.

LLVM vectorises a loop over the elements of one block badly: the counts that decide come out one block at a time. Here
`LANES` blocks stand side by side: row i holds element i of every block, so that one comparison serves all of them, each
with a threshold of its own. The code is given to LLVM as operations on vectors of 32 16-bit integers, one instruction
each on machines with 512-bit vectors and two or four on others. The results do not depend on that.

A magnitude, the lower 31 bits of a float32, comes in two planes of 16 bits: `high`, and `low` to tell apart those that
are equal in `high`.

Each function has a plain equivalent, which runs where numba's compiler is switched off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

from dovetail.engine.kernels import settings

LANES = 32
"""Blocks side by side."""

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_ROW = ir.VectorType(_I16, LANES)
_ZERO = ir.Constant(_ROW, [0] * LANES)


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Address of an array's first element."""
    make_array: Any = arrayobj.make_array
    return make_array(kind)(context, builder, array).data


def _at(builder: Any, data: Any, element: Any) -> Any:
    """Address of the row that starts at an element."""
    return builder.bitcast(builder.gep(data, [element]), _ROW.as_pointer())


def _load(builder: Any, data: Any, element: Any) -> Any:
    return builder.load(_at(builder, data, element), align=2)


def _store(builder: Any, row: Any, data: Any, element: Any) -> None:
    builder.store(row, _at(builder, data, element), align=2)


def _shuffle(builder: Any, first: Any, second: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, LANES), lanes))


def _fill(builder: Any, number: Any) -> Any:
    """Give a row with the same number in every lane."""
    nothing = ir.Constant(_ROW, ir.Undefined)
    return _shuffle(builder, builder.insert_element(nothing, number, ir.Constant(_I32, 0)), nothing, [0] * LANES)


def _count(builder: Any, counts: Any, condition: Any) -> Any:
    """Add one to the lanes in which a condition holds: true is -1 when widened."""
    return builder.sub(counts, builder.sext(condition, _ROW))


def _union(builder: Any, row: Any) -> Any:
    """Bits that any lane has."""
    name = f"llvm.vector.reduce.or.v{LANES}i16"
    function = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(_I16, [_ROW]), name)
    return builder.call(function, [row])


def _loop(builder: Any, count: Any, state: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Run ``state = body(i, state)`` for i from 0 to count - 1, and give the last state."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_I64)
    index.add_incoming(ir.Constant(_I64, 0), before)
    carried = [builder.phi(value.type) for value in state]
    for phi, value in zip(carried, state, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    results = body(index, list(carried))
    index.add_incoming(builder.add(index, ir.Constant(_I64, 1)), builder.block)
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


class _Rows:
    """Rows of several groups of blocks: ``groups`` runs of ``count`` rows each, one after another."""

    def __init__(self, builder: Any, data: Any, start: Any, count: Any, groups: int) -> None:
        self.builder, self.data, self.count, self.groups = builder, data, count, groups
        size = builder.mul(count, ir.Constant(_I64, LANES))
        self.starts = [builder.add(start, builder.mul(size, ir.Constant(_I64, group))) for group in range(groups)]

    def _element(self, group: int, row: Any) -> Any:
        return self.builder.add(self.starts[group], self.builder.mul(row, ir.Constant(_I64, LANES)))

    def load(self, group: int, row: Any) -> Any:
        return _load(self.builder, self.data, self._element(group, row))

    def store(self, value: Any, group: int, row: Any) -> None:
        _store(self.builder, value, self.data, self._element(group, row))


def _count_not_below(builder: Any, counts: Any, values: Any, bounds: Any, *, narrow: bool) -> Any:
    """Add one to the lanes whose value is at least the bound.

    Where all numbers are below 2^15, the sign of the difference tells, which is faster than a comparison on machines
    that keep the results of comparisons in registers of their own.
    """
    if not narrow:
        return _count(builder, counts, builder.icmp_unsigned(">=", values, bounds))
    below = builder.lshr(builder.sub(values, bounds), ir.Constant(_ROW, [15] * LANES))
    return builder.add(counts, builder.xor(below, ir.Constant(_ROW, [1] * LANES)))


def _thresholds(builder: Any, rows: _Rows, needed: list[Any], bits: Any, *, narrow: bool = False) -> list[Any]:
    """Find for every block the greatest t with at least `needed` elements >= t; 0 if there are too few.

    Bits are decided from the highest down. A bit that no element has cannot be part of a threshold: only those in
    `bits` are tried. With `narrow`, no element has the highest bit.
    """
    before = builder.block
    head, look, count, skip, end = (builder.append_basic_block(name) for name in ("bit", "look", "try", "skip", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    bit = builder.phi(_I16)
    bit.add_incoming(ir.Constant(_I16, 1 << 15), before)
    found = [builder.phi(_ROW) for _ in needed]
    for phi in found:
        phi.add_incoming(_ZERO, before)
    builder.cbranch(builder.icmp_unsigned("==", bit, ir.Constant(_I16, 0)), end, look)
    builder.position_at_end(look)
    absent = builder.icmp_unsigned("==", builder.and_(bit, bits), ir.Constant(_I16, 0))
    builder.cbranch(absent, skip, count)
    builder.position_at_end(count)
    tried = [builder.or_(threshold, _fill(builder, bit)) for threshold in found]

    def add(row: Any, counts: list[Any]) -> list[Any]:
        return [
            _count_not_below(builder, counts[group], rows.load(group, row), tried[group], narrow=narrow)
            for group in range(rows.groups)
        ]

    counts = _loop(builder, rows.count, [_ZERO] * rows.groups, add)
    better = [
        builder.select(builder.icmp_unsigned(">=", each, need), new, old)
        for each, need, new, old in zip(counts, needed, tried, found, strict=True)
    ]
    counted = builder.block
    builder.branch(skip)
    builder.position_at_end(skip)
    for phi, new, old in zip(found, better, list(found), strict=True):
        chosen = builder.phi(_ROW)
        chosen.add_incoming(old, look)
        chosen.add_incoming(new, counted)
        phi.add_incoming(chosen, skip)
    # All phis stand at the head of their block, before the shift.
    bit.add_incoming(builder.lshr(bit, ir.Constant(_I16, 1)), skip)
    builder.branch(head)
    builder.position_at_end(end)
    return found


def _select(builder: Any, high: _Rows, low: _Rows, needed: Any) -> None:
    """Mark in `high` the `needed` largest magnitudes of every block; see `select_lanes`."""
    groups = range(high.groups)
    everywhere = [_fill(builder, needed)] * high.groups
    (bits,) = _loop(
        builder,
        high.count,
        [_ZERO],
        lambda row, state: [_or_all(builder, [state[0], *(high.load(group, row) for group in groups)])],
    )
    top = _thresholds(builder, high, everywhere, _union(builder, bits), narrow=True)

    def split(row: Any, state: list[Any]) -> list[Any]:
        above, level, bits = (state[part * high.groups : (part + 1) * high.groups] for part in range(3))
        for group in groups:
            value = high.load(group, row)
            equal = builder.icmp_unsigned("==", value, top[group])
            above[group] = _count(builder, above[group], builder.icmp_unsigned(">", value, top[group]))
            level[group] = _count(builder, level[group], equal)
            rest = builder.select(equal, low.load(group, row), _ZERO)
            low.store(rest, group, row)
            bits[group] = builder.or_(bits[group], rest)
        return [*above, *level, *bits]

    state = _loop(builder, high.count, [_ZERO] * (3 * high.groups), split)
    above, level, low_bits = (state[part * high.groups : (part + 1) * high.groups] for part in range(3))
    left = [builder.sub(need, more) for need, more in zip(everywhere, above, strict=True)]
    # Only blocks with more elements at the threshold than are left to choose need to tell them apart.
    for group in groups:
        choose = builder.icmp_unsigned(">", level[group], left[group])
        low_bits[group] = builder.select(choose, low_bits[group], _ZERO)
    bits = _or_all(builder, low_bits)
    bottom = _thresholds(builder, low, left, _union(builder, bits))
    above = _loop(
        builder,
        low.count,
        [_ZERO] * low.groups,
        lambda row, state: [
            _count(builder, state[group], builder.icmp_unsigned(">", low.load(group, row), bottom[group]))
            for group in groups
        ],
    )
    for group in groups:
        # Zero is never kept, so at a threshold of zero no tie is.
        nothing = builder.icmp_unsigned("==", builder.or_(top[group], bottom[group]), _ZERO)
        left[group] = builder.select(nothing, _ZERO, builder.sub(left[group], above[group]))

    def mark(row: Any, seen: list[Any]) -> list[Any]:
        for group in groups:
            value, rest = high.load(group, row), low.load(group, row)
            more = builder.icmp_unsigned(">", value, top[group])
            more = builder.or_(more, builder.icmp_unsigned(">", rest, bottom[group]))
            tie = builder.icmp_unsigned("==", value, top[group])
            tie = builder.and_(tie, builder.icmp_unsigned("==", rest, bottom[group]))
            first = builder.and_(tie, builder.icmp_unsigned("<", seen[group], left[group]))
            high.store(builder.sext(builder.or_(more, first), _ROW), group, row)
            seen[group] = _count(builder, seen[group], tie)
        return seen

    _loop(builder, high.count, [_ZERO] * high.groups, mark)


def _or_all(builder: Any, rows: list[Any]) -> Any:
    total = rows[0]
    for row in rows[1:]:
        total = builder.or_(total, row)
    return total


@intrinsic
def _transpose(typing, source, start, stride, target, target_start, target_stride):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = signature.args
        data = _data(context, builder, kinds[0], arguments[0])
        rows, element = [], arguments[1]
        for _ in range(LANES):
            rows.append(_load(builder, data, element))
            element = builder.add(element, arguments[2])
        # Swap the two off-diagonal squares of every square, from the largest squares to single elements.
        distance = LANES // 2
        while distance:
            upper = [LANES + lane - distance if lane & distance else lane for lane in range(LANES)]
            lower = [LANES + lane if lane & distance else lane + distance for lane in range(LANES)]
            for first in (row for row in range(LANES) if not row & distance):
                pair = rows[first], rows[first + distance]
                rows[first] = _shuffle(builder, *pair, upper)
                rows[first + distance] = _shuffle(builder, *pair, lower)
            distance //= 2
        data, element = _data(context, builder, kinds[3], arguments[3]), arguments[4]
        for row in rows:
            _store(builder, row, data, element)
            element = builder.add(element, arguments[5])
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target, types.int64, types.int64), generate


def _make_select(groups: int) -> Any:
    @intrinsic
    def select(typing, high, low, start, rows, needed):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            kinds, (_, _, start, rows, needed) = signature.args, arguments
            planes = [_data(context, builder, kinds[plane], arguments[plane]) for plane in (0, 1)]
            highs, lows = (_Rows(builder, data, start, rows, groups) for data in planes)
            _select(builder, highs, lows, builder.trunc(needed, _I16))
            return context.get_dummy_value()

        return types.void(high, low, types.int64, types.int64, types.int64), generate

    return select


def _plain_transpose(source, start, stride, target, target_start, target_stride):  # type: ignore[no-untyped-def]
    for row in range(LANES):
        for lane in range(LANES):
            target[target_start + lane * target_stride + row] = source[start + row * stride + lane]


def _make_plain_select(groups: int) -> Any:
    def select(high, low, start, rows, needed):  # type: ignore[no-untyped-def]
        for group in range(groups):
            part = slice(start + group * rows * LANES, start + (group + 1) * rows * LANES)
            magnitude = (high[part].astype(np.int64) << 16 | low[part]).reshape(rows, LANES)
            order = np.argsort(-magnitude, axis=0, kind="stable")[:needed]
            kept = np.zeros(magnitude.shape, np.bool_)
            np.put_along_axis(kept, order, True, axis=0)
            high[part] = np.where(kept & (magnitude > 0), 0xFFFF, 0).reshape(-1)

    return select


transpose_lanes: Any = _plain_transpose if settings.DISABLE_JIT else _transpose
"""``transpose_lanes(source, start, stride, target, target_start, target_stride)``

Turn 32 rows of 32 16-bit integers, at `start` and every `stride` of `source`, into as many columns: rows at
`target_start` and every `target_stride` of `target`.
"""

_selects: list[Any] = [
    (_make_plain_select if settings.DISABLE_JIT else _make_select)(groups) for groups in (1, 2, 4, 8)
]

select_lanes, select_lanes_2, select_lanes_4, select_lanes_8 = _selects
"""``select_lanes(high, low, start, rows, needed)``

Select the `needed` largest magnitudes of each of 32 blocks, or of 2, 4 or 8 groups of 32 one after another, of `rows`
elements each, from element `start` of both planes on. Equal magnitudes: the lower row first; zero never.
`high` is overwritten: all ones where selected, else zero. `low` is destroyed.
"""
