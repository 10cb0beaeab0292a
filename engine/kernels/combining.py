"""Linear combinations of vectors in one sweep, with sums in float64 that stay in registers until they are rounded."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import F32, F64, I64, data_of, fill, integer, lines_of, load, loop, store

GROUP: Final = 8
"""Elements that are combined at once: the arrays have a multiple of them."""

_FLOATS, _DOUBLES = ir.VectorType(F32, GROUP), ir.VectorType(F64, GROUP)
_NOTHING = ir.Constant(_DOUBLES, [0.0] * GROUP)

NAN: Final = np.float32(np.nan)
"""What every result that is no number becomes: which of two NaN an operation gives, with its sign, depends on the order
of operands in the machine code."""
_NANS = ir.Constant(_FLOATS, [float("nan")] * GROUP)


@njit(nogil=True, cache=True, inline="always")
def rounded(change: float, base: np.float32, adds: bool) -> np.float32:
    """Round a combination to float32 or, if `adds`, the sum of it and the base model's value.

    A sum with a combination of zero is the base model's value, so that a -0.0 keeps its sign. Every NaN becomes `NAN`.
    """
    total = np.float64(base) + change if adds else change
    found = base if adds and change == 0.0 else np.float32(total)
    return NAN if np.isnan(found) else found


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, adds: bool) -> Any:
    """Generate the loop of `combine` or, if `adds`, of `combine_and_add`."""
    kinds = signature.args
    lines = lines_of(context, builder, kinds[1], arguments[1], kinds[0].count)
    factors, out = (data_of(context, builder, kinds[i], arguments[i]) for i in (2, 4))
    vectors = lines[adds:]
    coefficients = [
        fill(builder, builder.load(builder.gep(factors, [integer(I64, j)])), GROUP) for j in range(len(vectors))
    ]

    def sweep(group: Any, nothing: list[Any]) -> list[Any]:
        place = builder.mul(group, integer(I64, GROUP))
        first, *others = (load(builder, line, place, F32, GROUP, 4) for line in lines)
        values = [builder.fsub(each, first) for each in others] if adds else [first, *others]
        change = _NOTHING
        for factor, value in zip(coefficients, values, strict=True):
            change = builder.fadd(change, builder.fmul(factor, builder.fpext(value, _DOUBLES)))
        if adds:
            merged = builder.fptrunc(builder.fadd(builder.fpext(first, _DOUBLES), change), _FLOATS)
            result = builder.select(builder.fcmp_ordered("==", change, _NOTHING), first, merged)
        else:
            result = builder.fptrunc(change, _FLOATS)
        is_nan = builder.fcmp_unordered("uno", result, result)
        store(builder, builder.select(is_nan, _NANS, result), out, place, 4)
        return nothing

    groups = builder.lshr(builder.add(arguments[3], integer(I64, GROUP - 1)), integer(I64, 3))
    loop(builder, groups, [], sweep)
    return context.get_dummy_value()


@intrinsic
def _combine(typing, sources, lines, coefficients, count, out):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, adds=False)

    return types.void(sources, lines, coefficients, types.int64, out), generate


@intrinsic
def _combine_and_add(typing, sources, lines, coefficients, count, out):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, adds=True)

    return types.void(sources, lines, coefficients, types.int64, out), generate


def _combine_plainly(sources, lines, coefficients, count, out):  # type: ignore[no-untyped-def]
    change = np.zeros(count)
    for factor, line in zip(coefficients, lines, strict=True):
        change += factor * line[:count].astype(np.float64)
    out[:count] = np.where(np.isnan(change), NAN, change)


def _combine_and_add_plainly(sources, lines, coefficients, count, out):  # type: ignore[no-untyped-def]
    base, change = lines[0, :count], np.zeros(count)
    for factor, line in zip(coefficients, lines[1:], strict=True):
        change += factor * (line[:count] - base).astype(np.float64)
    merged = np.where(change == 0.0, base, (base + change).astype(np.float32))
    out[:count] = np.where(np.isnan(merged), NAN, merged)


combine: Final[Any] = _combine_plainly if settings.DISABLE_JIT else _combine
"""``combine(sources, lines, coefficients, count, out)``

Combine vectors linearly.

Parameters
----------
sources : tuple
    As many of anything as there are vectors: kernels are compiled for their number.
lines : float32[:, :]
    One vector in each line. Lines and `out` reach to a multiple of `GROUP` elements; what is beyond `count` is used,
    and may be anything.
coefficients : float64[:]
    The coefficient of each vector.
count : int
    How many elements of each line take part.
out : float32[:]
    Receives the combination: the sum in float64, in the order of the vectors from zero on, rounded to float32 once.
    Every NaN becomes `NAN`.
"""

combine_and_add: Final[Any] = _combine_and_add_plainly if settings.DISABLE_JIT else _combine_and_add
"""``combine_and_add(sources, lines, coefficients, count, out)``

Combine task vectors linearly, and add the combination to the base model's values, as `rounded` says.

Parameters
----------
sources, count, out
    As for `combine`.
lines : float32[:, :]
    The base model's values in the first line, and the models' values in the others.
coefficients : float64[:]
    The coefficient of each model's task vector, which is rounded to float32 before it is multiplied.
"""
