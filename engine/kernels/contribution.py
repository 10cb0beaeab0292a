"""The step that follows a selection, in one pass: claims, contributions to the result, and sums for the statistics.

The step is written as vector code by hand, because LLVM may not reorder the additions of a float64 sum and so leaves
such a loop scalar. Here the order is fixed, whatever the width of the machine's vectors: element i is added to partial
sum i modulo `LANES`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import (
    F32,
    F64,
    I16,
    I64,
    constant,
    data_of,
    fill,
    integer,
    load,
    loop,
    store,
    sum_lanes,
)

LANES = 32
"""Partial sums; enough of them to hide the latency of an addition."""

_DOUBLES = ir.VectorType(F64, LANES)
_FLOATS = ir.VectorType(F32, LANES)


@intrinsic
def _claim_and_add(typing, marks, tau, weight, free, base, before, after, start, stop):  # type: ignore[no-untyped-def]
    make_tuple: Any = types.Tuple
    # Nine arguments, but none is passed: an intrinsic is generated into its caller.
    result = make_tuple((types.int64, types.float64, types.float64))

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = signature.args
        marks, tau, free, base, before, after = (
            data_of(context, builder, kinds[i], arguments[i]) for i in (0, 1, 3, 4, 5, 6)
        )
        start, stop = arguments[7], arguments[8]
        scale = fill(builder, arguments[2], LANES)
        nothing, none = ir.Constant(_FLOATS, [0.0] * LANES), constant(I16, [0] * LANES)

        def add(first: Any, state: list[Any], inside: Any) -> list[Any]:
            count, everything, kept = state
            mark, value = load(builder, marks, first, I16, LANES, 2), load(builder, tau, first, F32, LANES, 4)
            if inside is not None:
                mark, value = builder.select(inside, mark, none), builder.select(inside, value, nothing)
            open_ = load(builder, free, first, I16, LANES, 2)
            store(builder, builder.and_(open_, builder.not_(mark)), free, first, 2)
            chosen = builder.icmp_unsigned("!=", mark, none)
            # Where the change is zero, the value of before is copied, so that a -0.0 keeps its sign.
            change = builder.fmul(scale, value)
            moved = builder.and_(chosen, builder.fcmp_unordered("!=", change, nothing))
            sum_ = builder.fadd(load(builder, base, first, F32, LANES, 4), change)
            old = load(builder, before, first, F32, LANES, 4)
            store(builder, builder.select(moved, sum_, old), after, first, 4)
            wide = builder.fpext(value, _DOUBLES)
            square = builder.fmul(wide, wide)
            everything = builder.fadd(everything, square)
            kept = builder.fadd(kept, builder.select(chosen, square, ir.Constant(_DOUBLES, [0.0] * LANES)))
            return [builder.sub(count, mark), everything, kept]

        state = [none, *[ir.Constant(_DOUBLES, [0.0] * LANES)] * 2]
        length = builder.sub(stop, start)
        whole = builder.lshr(length, integer(I64, LANES.bit_length() - 1))
        state = loop(
            builder,
            whole,
            state,
            lambda i, state: add(builder.add(start, builder.mul(i, integer(I64, LANES))), state, None),
        )
        # The last elements are computed as a whole vector too; `inside` tells which of its lanes lie before `stop`.
        rest = builder.trunc(builder.and_(length, integer(I64, LANES - 1)), I16)
        inside = builder.icmp_unsigned("<", constant(I16, list(range(LANES))), fill(builder, rest, LANES))
        last = builder.add(start, builder.mul(whole, integer(I64, LANES)))
        partial = builder.zext(builder.icmp_unsigned("!=", rest, integer(I16, 0)), I64)
        count, everything, kept = loop(builder, partial, state, lambda _, state: add(last, state, inside))
        found = sum_lanes(builder, builder.zext(count, ir.VectorType(I64, LANES)))
        return context.make_tuple(
            builder, signature.return_type, [found, sum_lanes(builder, everything), sum_lanes(builder, kept)]
        )

    return result(marks, tau, weight, free, base, before, after, types.int64, types.int64), generate


def _plain_claim_and_add(marks, tau, weight, free, base, before, after, start, stop):  # type: ignore[no-untyped-def]
    part = slice(start, stop)
    mark, value = marks[part], tau[part]
    free[part] &= ~mark
    change = np.float32(weight) * value
    after[part] = np.where((mark != 0) & (change != 0), base[part] + change, before[part])
    square = value.astype(np.float64) ** 2
    total, kept = np.zeros(LANES), np.zeros(LANES)
    for first in range(0, stop - start, LANES):
        count = min(LANES, stop - start - first)
        total[:count] += square[first : first + count]
        kept[:count] += np.where(mark[first : first + count] != 0, square[first : first + count], 0.0)
    half = LANES // 2
    while half:
        total, kept, half = total[:half] + total[half:], kept[:half] + kept[half:], half // 2
    return int(np.count_nonzero(mark)), float(total[0]), float(kept[0])


claim_and_add: Any = _plain_claim_and_add if settings.DISABLE_JIT else _claim_and_add
"""``claim_and_add(marks, tau, weight, free, base, before, after, start, stop) -> (found, total, kept)``

Claim the marked elements of ``start:stop`` for a model, and add the model's contributions to the result.

Parameters
----------
marks : uint16[:]
    0xFFFF where the model keeps the element, else 0.
tau : float32[:]
    The model's task vector.
weight : float32
    The model's weight.
free : uint16[:]
    0xFFFF where no model has claimed the element yet, else 0; the kernel clears what it claims.
base : float32[:]
    The base model's values.
before, after : float32[:]
    The result without this model's contributions, and the array that receives it with them; they may be the same.
start, stop : int
    First element and one past the last, at most 2^20 elements. All arrays reach at least `LANES` elements further.

Returns
-------
int, float, float
    The number of marked elements, the sum of squares of tau, and the sum of squares of its marked elements.
"""
