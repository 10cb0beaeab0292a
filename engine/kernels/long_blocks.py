"""The steps of n:m selection in long blocks, as vector code: splitting, counting and marking one block at a time.

The magnitude of an element, the lower 31 bits of a float32, is split into two planes of 16 bits: `upper` and, for
elements that are equal in `upper`, `lower`. The threshold of a block is the magnitude of its n-th largest element; it
is found by counting the elements that reach a guess. The comparison of a whole vector with the guess gives an integer
with one bit for each lane; counting the bits that are set costs less than adding up lanes, as LLVM does for a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import (
    I1,
    I16,
    I32,
    I64,
    constant,
    data_of,
    fill,
    integer,
    largest_lane,
    load,
    loop,
    offset,
    pick,
    store,
    umax,
)

LANES = 32
"""Elements of a vector."""

ROW = 4 * LANES
"""Elements that are counted at a time; the length of a plane is a multiple of it."""

_BITS = LANES.bit_length() - 1
_ZERO = constant(I16, [0] * LANES)


def _rows(builder: Any, m: Any) -> Any:
    """Generate the number of rows that m elements take."""
    return builder.lshr(builder.add(m, integer(I64, ROW - 1)), integer(I64, _BITS + 2))


def _vectors(builder: Any, m: Any) -> Any:
    """Generate the number of vectors that m elements take."""
    return builder.lshr(builder.add(m, integer(I64, LANES - 1)), integer(I64, _BITS))


def _first(builder: Any, vector: Any) -> Any:
    return builder.mul(vector, integer(I64, LANES))


def _mask(builder: Any, condition: Any) -> Any:
    """Generate an integer in which bit i is set if the condition holds in lane i."""
    return builder.bitcast(condition, I32)


@intrinsic
def _split(typing, tau, free, start, m, upper, lower):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values, open_, high, low = (data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 4, 5))
        start, m = arguments[2], arguments[3]

        def split(vector: Any, inside: Any) -> list[Any]:
            element = builder.add(start, _first(builder, vector))
            unclaimed = load(builder, open_, element, I16, LANES, 2)
            if inside is not None:
                unclaimed = builder.select(inside, unclaimed, _ZERO)
            # A float32 is two 16-bit integers, the lower one first.
            one, two = (load(builder, values, offset(builder, element, i), I16, LANES, 4) for i in (0, LANES // 2))
            above = builder.and_(pick(builder, one, two, range(1, 2 * LANES, 2)), constant(I16, [0x7FFF] * LANES))
            below = pick(builder, one, two, range(0, 2 * LANES, 2))
            store(builder, builder.and_(above, unclaimed), high, _first(builder, vector), 2)
            store(builder, builder.and_(below, unclaimed), low, _first(builder, vector), 2)
            return []

        whole = builder.lshr(m, integer(I64, _BITS))
        loop(builder, whole, [], lambda vector, _: split(vector, None))

        def end(number: Any, state: list[Any]) -> list[Any]:
            vector = builder.add(whole, number)
            left = builder.sub(m, _first(builder, vector))
            left = builder.select(builder.icmp_signed(">", left, integer(I64, 0)), left, integer(I64, 0))
            lanes = constant(I32, list(range(LANES)))
            return split(vector, builder.icmp_unsigned("<", lanes, fill(builder, builder.trunc(left, I32), LANES)))

        loop(builder, builder.sub(builder.mul(_rows(builder, m), integer(I64, ROW // LANES)), whole), [], end)
        return context.get_dummy_value()

    return types.void(tau, free, types.int64, types.int64, upper, lower), generate


@intrinsic
def _count(typing, plane, m, least):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = data_of(context, builder, signature.args[0], arguments[0])
        _, m, least = arguments
        limit = fill(builder, builder.trunc(least, I16), LANES)

        def count(row: Any, state: list[Any]) -> list[Any]:
            first = builder.mul(row, integer(I64, ROW))
            masks = []
            for number in range(4):
                values = load(builder, data, offset(builder, first, number * LANES), I16, LANES, 2)
                masks.append(builder.zext(_mask(builder, builder.icmp_unsigned(">=", values, limit)), I64))
            pairs = [builder.or_(masks[i], builder.shl(masks[i + 1], integer(I64, 32))) for i in (0, 2)]
            ones = [builder.ctpop(pair) for pair in pairs]
            return [builder.add(state[0], builder.add(*ones))]

        return loop(builder, _rows(builder, m), [integer(I64, 0)], count)[0]

    return types.int64(plane, types.int64, types.int64), generate


def _level(builder: Any, planes: list[Any], vector: Any, level: Any) -> tuple[Any, Any]:
    """Load a vector of `lower`, and compare the same elements of `upper` with `level`."""
    upper, lower = (load(builder, plane, _first(builder, vector), I16, LANES, 2) for plane in planes)
    return lower, builder.icmp_unsigned("==", upper, level)


@intrinsic
def _count_level(typing, upper, lower, m, level, least):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        planes = [data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 1)]
        level, least = (fill(builder, builder.trunc(arguments[i], I16), LANES) for i in (3, 4))

        def count(vector: Any, state: list[Any]) -> list[Any]:
            values, here = _level(builder, planes, vector, level)
            here = builder.and_(here, builder.icmp_unsigned(">=", values, least))
            return [builder.add(state[0], builder.zext(builder.ctpop(_mask(builder, here)), I64))]

        return loop(builder, _vectors(builder, arguments[2]), [integer(I64, 0)], count)[0]

    return types.int64(upper, lower, types.int64, types.int64, types.int64), generate


@intrinsic
def _largest_in_level(typing, upper, lower, m, level, most):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        planes = [data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 1)]
        level, most = (fill(builder, builder.trunc(arguments[i], I16), LANES) for i in (3, 4))

        def find(vector: Any, state: list[Any]) -> list[Any]:
            values, here = _level(builder, planes, vector, level)
            here = builder.and_(here, builder.icmp_unsigned("<=", values, most))
            return [umax(builder, state[0], builder.select(here, values, _ZERO))]

        (found,) = loop(builder, _vectors(builder, arguments[2]), [_ZERO], find)
        return builder.zext(largest_lane(builder, found), I64)

    return types.int64(upper, lower, types.int64, types.int64, types.int64), generate


def _put_marks(builder: Any, bits: Any, marks: Any, start: Any, vector: Any) -> None:
    """Store a mark for every bit of an integer: 0xFFFF where it is set, else 0."""
    wide = builder.sext(builder.bitcast(bits, ir.VectorType(I1, LANES)), ir.VectorType(I16, LANES))
    store(builder, wide, marks, builder.add(start, _first(builder, vector)), 2)


@intrinsic
def _mark_above(typing, upper, marks, start, m, level):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        plane, marks = (data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 1))
        level = fill(builder, builder.trunc(arguments[4], I16), LANES)

        def mark(vector: Any, state: list[Any]) -> list[Any]:
            values = load(builder, plane, _first(builder, vector), I16, LANES, 2)
            above = builder.sext(builder.icmp_unsigned(">", values, level), ir.VectorType(I16, LANES))
            store(builder, above, marks, builder.add(arguments[2], _first(builder, vector)), 2)
            return []

        loop(builder, _vectors(builder, arguments[3]), [], mark)
        return context.get_dummy_value()

    return types.void(upper, marks, types.int64, types.int64, types.int64), generate


@intrinsic
def _mark_from(typing, upper, lower, marks, start, m, level, low, ties):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        upper, lower, marks = (data_of(context, builder, signature.args[i], arguments[i]) for i in range(3))
        level, low = (fill(builder, builder.trunc(arguments[i], I16), LANES) for i in (5, 6))
        zero = integer(I32, 0)

        def mark(vector: Any, state: list[Any]) -> list[Any]:
            (left,) = state
            first, rest = (load(builder, plane, _first(builder, vector), I16, LANES, 2) for plane in (upper, lower))
            here = builder.icmp_unsigned("==", first, level)
            above = builder.and_(here, builder.icmp_unsigned(">", rest, low))
            above = _mask(builder, builder.or_(above, builder.icmp_unsigned(">", first, level)))
            equal = _mask(builder, builder.and_(here, builder.icmp_unsigned("==", rest, low)))
            equal = builder.select(builder.icmp_unsigned("==", left, zero), zero, equal)
            ones = builder.ctpop(equal)
            surplus = builder.select(builder.icmp_unsigned(">", ones, left), builder.sub(ones, left), zero)
            (equal,) = loop(builder, builder.zext(surplus, I64), [equal], lambda _, bits: [_drop(builder, bits[0])])
            _put_marks(builder, builder.or_(above, equal), marks, arguments[3], vector)
            return [builder.sub(left, builder.sub(ones, surplus))]

        loop(builder, _vectors(builder, arguments[4]), [builder.trunc(arguments[7], I32)], mark)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(upper, lower, marks, i64, i64, i64, i64, i64), generate


def _drop(builder: Any, bits: Any) -> Any:
    """Clear the highest bit that is set in an integer; the integer is not zero."""
    zeros = builder.ctlz(bits, integer(I1, 1))
    return builder.xor(bits, builder.lshr(integer(I32, 1 << 31), zeros))


def _plain_split(tau, free, start, m, upper, lower):  # type: ignore[no-untyped-def]
    part = slice(start, start + m)
    bits = tau[part].view(np.uint32) & np.uint32(0x7FFFFFFF)
    end = (m + ROW - 1) // ROW * ROW
    upper[m:end] = lower[m:end] = 0
    upper[:m] = (bits >> np.uint32(16)).astype(np.uint16) & free[part]
    lower[:m] = (bits & np.uint32(0xFFFF)).astype(np.uint16) & free[part]


def _plain_count(plane, m, least):  # type: ignore[no-untyped-def]
    return int(np.count_nonzero(plane[:m] >= least))


def _plain_count_level(upper, lower, m, level, least):  # type: ignore[no-untyped-def]
    return int(np.count_nonzero((upper[:m] == level) & (lower[:m] >= least)))


def _plain_largest_in_level(upper, lower, m, level, most):  # type: ignore[no-untyped-def]
    return int(np.max(lower[:m], where=(upper[:m] == level) & (lower[:m] <= most), initial=0))


def _plain_mark_above(upper, marks, start, m, level):  # type: ignore[no-untyped-def]
    marks[start : start + m] = np.where(upper[:m] > level, 0xFFFF, 0)


def _plain_mark_from(upper, lower, marks, start, m, level, low, ties):  # type: ignore[no-untyped-def]
    here, rest = upper[:m] == level, lower[:m]
    equal = here & (rest == low)
    kept = (upper[:m] > level) | (here & (rest > low)) | (equal & (np.cumsum(equal) <= ties))
    marks[start : start + m] = np.where(kept, 0xFFFF, 0)


def _choose(compiled: Any, plain: Callable[..., Any]) -> Any:
    return plain if settings.DISABLE_JIT else compiled


split_block: Any = _choose(_split, _plain_split)
"""``split_block(tau, free, start, m, upper, lower)``

Split the magnitudes of the block of m elements that begins at `start` into the planes `upper` and `lower`.

Parameters
----------
tau : float32[:]
    The values.
free : uint16[:]
    0xFFFF where an element may be selected, else 0: the planes receive 0 for the others.
start, m : int
    First element of the block, and its elements.
upper, lower : uint16[:]
    Receive the planes; behind them, zeros up to the next multiple of `ROW`.
"""

count_from: Any = _choose(_count, _plain_count)
"""``count_from(plane, m, least)``

Count the elements of a plane of m elements that are at least `least`, which is not 0.
"""

count_level_from: Any = _choose(_count_level, _plain_count_level)
"""``count_level_from(upper, lower, m, level, least)``

Count the elements of a block that have the upper half `level` and a lower half of at least `least`, which is not 0.
"""

largest_in_level: Any = _choose(_largest_in_level, _plain_largest_in_level)
"""``largest_in_level(upper, lower, m, level, most)``

Among the elements of a block that have the upper half `level`, find the largest lower half that is at most `most`; 0 if
there is none.
"""

mark_above: Any = _choose(_mark_above, _plain_mark_above)
"""``mark_above(upper, marks, start, m, level)``

Mark the elements of a block that have an upper half above `level`: `marks`, uint16 from element `start` on, receives
0xFFFF for them and 0 for the others. Up to `LANES` marks beyond the end of the block are undefined afterwards.
"""

mark_from: Any = _choose(_mark_from, _plain_mark_from)
"""``mark_from(upper, lower, marks, start, m, level, low, ties)``

Mark the elements of a block that are above a magnitude, of which `level` and `low` are the halves, and the first `ties`
of those that are equal to it. The marks are as for `mark_above`.
"""
