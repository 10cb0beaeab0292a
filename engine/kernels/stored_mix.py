"""Linear combinations in one sweep from stored bytes to stored bytes, where everything is bfloat16 or float32.

A run of elements stays in registers from the sources to the result. Its bits are those of the steps that take the place
of this kernel for other dtypes, and where a result is not finite: `convert.decode`, `combining.combine` or
`combining.combine_and_add`, and `convert.encode`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.convert import BF16, F32
from dovetail.engine.kernels.emit import I32, I64, data_of, fill, integer, largest_lane, loop, umax
from dovetail.engine.kernels.halves import (
    DOUBLES,
    FLOATS,
    HALF,
    RUN,
    WORDS,
    addresses,
    bytes_of,
    fetch_ahead,
    load_halves,
    store_halves,
    words,
)

_NOTHING = ir.Constant(DOUBLES, [0.0] * HALF)
_LIMITS: Final = (np.uint32(0x7F800000), np.uint32(0x7F7F8000))
"""The least magnitudes, as float32 bits, that are not finite as float32 and as bfloat16."""


def _combined(builder: Any, factors: list[Any], base: Any | None, values: list[Any]) -> Any:
    """Generate the combination of half a run; with a base model, of task vectors, and its sum with the base model."""
    change = _NOTHING
    for factor, value in zip(factors, values, strict=True):
        vector = value if base is None else builder.fsub(value, base)
        change = builder.fadd(change, builder.fmul(factor, builder.fpext(vector, DOUBLES)))
    if base is None:
        return builder.fptrunc(change, FLOATS)
    merged = builder.fptrunc(builder.fadd(builder.fpext(base, DOUBLES), change), FLOATS)
    return builder.select(builder.fcmp_ordered("==", change, _NOTHING), base, merged)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, code: int) -> Any:
    """Generate the loop of `_combine_stored` for one dtype; give the largest magnitude of the results."""
    kinds = signature.args
    base, vectors = (addresses(context, builder, kinds[i], arguments[i]) for i in (0, 1))
    coefficients, start, count = (arguments[i] for i in (3, 4, 5))
    given, out = data_of(context, builder, kinds[3], coefficients), data_of(context, builder, kinds[6], arguments[6])
    factors = [fill(builder, builder.load(builder.gep(given, [integer(I64, j)])), HALF) for j in range(len(vectors))]

    def sweep(run: Any, largest: list[Any]) -> list[Any]:
        place = builder.add(start, builder.mul(run, integer(I64, RUN)))
        for each in (*base, *vectors):
            fetch_ahead(builder, code, each, place)
        origins = load_halves(builder, code, base[0], place) if base else (None, None)
        loaded = [load_halves(builder, code, vector, place) for vector in vectors]
        results = [
            builder.bitcast(_combined(builder, factors, origin, list(values)), WORDS)
            for origin, *values in zip(origins, *loaded, strict=True)
        ]
        store_halves(builder, code, results, bytes_of(builder, out), place)
        return [
            umax(builder, before, builder.and_(bits, words(0x7FFFFFFF)))
            for before, bits in zip(largest, results, strict=True)
        ]

    first, second = loop(builder, builder.udiv(count, integer(I64, RUN)), [words(0), words(0)], sweep)
    return largest_lane(builder, umax(builder, first, second))


@intrinsic
def _combine_stored(typing, base, vectors, code, coefficients, start, count, out):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        is_bfloat16 = builder.icmp_signed("==", arguments[2], integer(I64, BF16))
        with builder.if_else(is_bfloat16) as (bfloat16, float32):
            with bfloat16:
                first, first_block = _emit(context, builder, signature, arguments, BF16), builder.block
            with float32:
                second, second_block = _emit(context, builder, signature, arguments, F32), builder.block
        largest = builder.phi(I32)
        largest.add_incoming(first, first_block)
        largest.add_incoming(second, second_block)
        return largest

    whole = types.int64
    return types.uint32(base, vectors, whole, coefficients, whole, whole, out), generate


def _never(base, vectors, code, coefficients, start, count, out):  # type: ignore[no-untyped-def]
    """Say that the results are not finite, so that the steps one by one take the place of this kernel."""
    return np.uint32(0x7FFFFFFF)


_combine: Final[Any] = _never if settings.DISABLE_JIT else _combine_stored


@njit(nogil=True, cache=True)
def mix_stored(base, vectors, code, coefficients, start, stop, out):  # type: ignore[no-untyped-def]
    """Combine elements ``start:stop`` of stored tensors, whole runs of 32, if all results are finite.

    Parameters
    ----------
    base : tuple of uint8[:]
        Stored bytes of the base model if task vectors are combined and added to it; else empty.
    vectors : tuple of uint8[:]
        Stored bytes of the models.
    code : int
        Dtype code of all of them and of the result: BF16 or F32.
    coefficients : float64[:]
        The coefficient of every model.
    start, stop : int
        First element, and one past the last.
    out : uint8[:]
        Receives the elements at the same places.

    Returns
    -------
    bool
        Whether all results are finite. If they are not, what `out` has received may be wrong.

    """
    largest = _combine(base, vectors, code, coefficients, start, stop - start, out)
    return largest < (_LIMITS[1] if code == BF16 else _LIMITS[0])
