"""Merging whole words of marks in one sweep, where everything is bfloat16: nothing is written but the result.

Eight elements at a time stay in registers from the stored bytes to the stored bytes. The steps and the order of all
sums are those of `stored.stored_sum`, which takes the place of this kernel for other dtypes, elections of signs, means,
and the edges of runs, and where a value is not finite.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels.emit import (
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    concatenate,
    constant,
    data_of,
    fill,
    integer,
    load,
    loop,
    offset,
    store,
    sum_lanes,
)
from dovetail.engine.kernels.expansion import BY_INSTRUCTIONS, GROUP, WORD, spread_group

_FLOATS, _DOUBLES = ir.VectorType(F32, GROUP), ir.VectorType(F64, GROUP)
_NUMBERS, _HALVES, _FLAGS = ir.VectorType(I32, GROUP), ir.VectorType(I16, GROUP), ir.VectorType(I1, GROUP)
_NO_FLOATS = ir.Constant(_FLOATS, [0.0] * GROUP)
_NO_DOUBLES = ir.Constant(_DOUBLES, [0.0] * GROUP)


def _all(value: int) -> Any:
    return constant(I32, [value] * GROUP)


def _decode(builder: Any, data: Any, place: Any) -> Any:
    """Load eight elements of bfloat16 as float32."""
    halves = load(builder, data, place, I16, GROUP, 1)
    return builder.bitcast(builder.shl(builder.zext(halves, _NUMBERS), _all(16)), _FLOATS)


def _is_infinite(builder: Any, bits: Any) -> Any:
    """Tell which lanes of float32 bits are NaN or infinite."""
    return builder.icmp_unsigned("==", builder.and_(bits, _all(0x7F800000)), _all(0x7F800000))


def _encode(builder: Any, merged: Any) -> tuple[Any, Any]:
    """Round eight numbers to bfloat16, to nearest even; tell which are not finite, before or after."""
    bits = builder.bitcast(merged, _NUMBERS)
    odd = builder.and_(builder.lshr(bits, _all(16)), _all(1))
    rounded = builder.lshr(builder.add(builder.add(bits, _all(0x7FFF)), odd), _all(16))
    wrong = builder.or_(_is_infinite(builder, bits), _is_infinite(builder, builder.shl(rounded, _all(16))))
    return builder.trunc(rounded, _HALVES), wrong


@intrinsic
def _merge(typing, base, values, marks, first, count, at, factors, factor, out, place, squares):  # type: ignore[no-untyped-def]
    # Eleven arguments, but none is passed: an intrinsic is generated into its caller.
    models = values.count

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = signature.args
        base, at, factors, out, squares = (data_of(context, builder, kinds[i], arguments[i]) for i in (0, 5, 6, 8, 10))
        parts = [
            [data_of(context, builder, kinds[i].dtype, builder.extract_value(arguments[i], j)) for i in (1, 2)]
            for j in range(models)
        ]
        first, count, factor, place = (arguments[i] for i in (3, 4, 7, 9))
        halves, result = (builder.bitcast(each, I16.as_pointer()) for each in (base, out))
        words = [(builder.bitcast(values, I16.as_pointer()), marks) for values, marks in parts]
        scales, weights = (
            [
                fill(builder, builder.load(builder.gep(factors, [integer(I64, row * models + j)])), GROUP)
                for j in range(models)
            ]
            for row in (0, 1)
        )
        shared = fill(builder, factor, GROUP)

        def sweep(i: Any, state: list[Any]) -> list[Any]:
            wrong, places, sums = state[0], state[1 : 1 + models], state[1 + models :]
            index = builder.add(first, i)
            bits = [builder.load(builder.gep(marks, [index])) for _, marks in words]
            source = builder.mul(index, integer(I64, WORD))
            target = builder.add(place, builder.mul(i, integer(I64, WORD)))
            for low in range(0, WORD, GROUP):
                before, delta, turn = (
                    _decode(builder, halves, offset(builder, source, low)),
                    _NO_FLOATS,
                    low // GROUP % 2,
                )
                for j, (values, _) in enumerate(words):
                    mask = builder.trunc(builder.lshr(bits[j], integer(I64, low)), I8)
                    kept, change = spread_group(builder, _decode(builder, values, places[j]), mask, before)
                    sum_ = builder.fadd(delta, builder.fmul(weights[j], builder.fmul(scales[j], change)))
                    delta = builder.select(kept, sum_, delta)
                    places[j] = builder.add(places[j], builder.zext(builder.ctpop(mask), I64))
                    _square(builder, sums, 2 * j + turn, change)
                delta = builder.fmul(delta, shared)
                _square(builder, sums, 2 * models + turn, delta)
                same = builder.fcmp_ordered("==", delta, _NO_FLOATS)
                merged = builder.select(same, before, builder.fadd(before, delta))
                encoded, bad = _encode(builder, merged)
                wrong = builder.or_(wrong, bad)
                store(builder, encoded, result, offset(builder, target, low), 1)
            return [wrong, *places, *sums]

        begin = [builder.load(builder.gep(at, [integer(I64, j)])) for j in range(models)]
        state = [ir.Constant(_FLAGS, [0] * GROUP), *begin, *[_NO_DOUBLES] * (2 * models + 2)]
        wrong, *found = loop(builder, count, state, sweep)
        for j in range(models + 1):
            total = sum_lanes(builder, concatenate(builder, found[models + 2 * j : models + 2 * j + 2]))
            builder.store(total, builder.gep(squares, [integer(I64, j)]))
        return builder.icmp_unsigned("==", builder.bitcast(wrong, I8), integer(I8, 0))

    int64, float32 = types.int64, types.float32
    signature = types.boolean(base, values, marks, int64, int64, at, factors, float32, out, int64, squares)
    return signature, generate


def _square(builder: Any, sums: list[Any], index: int, change: Any) -> None:
    """Add squares to partial sums."""
    wide = builder.fpext(change, _DOUBLES)
    sums[index] = builder.fadd(sums[index], builder.fmul(wide, wide))


@njit(nogil=True, cache=True)
def _leave(base, values, marks, first, count, at, factors, factor, out, place, squares):  # type: ignore[no-untyped-def]
    """Leave the words to the kernel that works without vector instructions."""
    return False


merge_words: Final[Any] = _merge if BY_INSTRUCTIONS else _leave
"""``merge_words(base, values, marks, first, count, at, factors, factor, out, place, squares) -> merged``

Merge whole words of marks; see `stored.stored_sum` for what is merged.

Parameters
----------
base : uint8[:]
    Stored bytes of the base model, from the element of the first mark of all on.
values : tuple of uint8[:]
    Stored bytes of the models' values; `expansion.SLACK` values follow those that belong to the words.
marks : tuple of uint64[:]
    The models' marks.
first, count : int
    The first word to merge, and how many.
at : int64[K]
    For each model, the first value that belongs to the words.
factors : float32[:, K]
    The models' rescaling factors, and their weights.
factor : float32
    What the sum is multiplied by.
out : uint8[:]
    Receives the stored bytes of the result, from element `place` on.
place : int
    See `out`.
squares : float64[K + 1]
    Receives the sums of squares of the kept changes and of the merged change: element i is added to partial sum i
    modulo 16.

Returns
-------
bool
    Whether the words are merged. They are not where a result is not finite, and on processors without the
    instructions; then nothing of what was written may be used.
"""
