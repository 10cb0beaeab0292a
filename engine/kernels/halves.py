"""Runs of 32 stored elements as two vectors of 16 float32 values, with one operation for each vector.

A word of two bfloat16 numbers becomes the float32 value of the one by a shift and of the other by a mask. So the halves
of a run of bfloat16 are its even and its odd elements. Those of a run of float32 are its first 16 and its last 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils

from dovetail.engine.kernels.convert import BF16, ITEMSIZES
from dovetail.engine.kernels.emit import F32, F64, I8, I32, I64, constant, data_of, integer, load, offset, pick, store
from dovetail.engine.kernels.prefetch import LINE_BYTES, ask_for

RUN: Final = 32
"""Elements of a run."""

HALF: Final = 16
"""Elements of half a run."""

_AHEAD_BYTES: Final = 2048
"""How far ahead of what is loaded memory is asked for."""

FLOATS, DOUBLES, WORDS = (ir.VectorType(kind, HALF) for kind in (F32, F64, I32))

_FIRST, _SECOND = range(HALF), range(HALF, RUN)
_EVEN, _ODD = range(0, RUN, 2), range(1, RUN, 2)
_WOVEN = [place for pair in zip(_FIRST, _SECOND, strict=True) for place in pair]


def words(value: int) -> Any:
    """Make a vector that has the same integer in every lane."""
    return constant(I32, [value] * HALF)


def bytes_of(builder: Any, data: Any) -> Any:
    """Give the address of an array's first element as that of a byte."""
    return builder.bitcast(data, I8.as_pointer())


def addresses(context: Any, builder: Any, kind: Any, arrays: Any) -> list[Any]:
    """Generate the addresses of the first bytes of a tuple of arrays, which may be empty."""
    if not kind.count:
        return []
    unpack_tuple: Any = cgutils.unpack_tuple
    found = unpack_tuple(builder, arrays, kind.count)
    return [bytes_of(builder, data_of(context, builder, kind.dtype, each)) for each in found]


def load_halves(builder: Any, code: int, data: Any, element: Any) -> list[Any]:
    """Load both halves of the run that begins with an element of a tensor of dtype BF16 or F32, given by its bytes."""
    place = builder.mul(element, integer(I64, ITEMSIZES[code]))
    if code == BF16:
        pairs = load(builder, data, place, I32, HALF, 1)
        bits = builder.shl(pairs, words(16)), builder.and_(pairs, words(0xFFFF0000))
        return [builder.bitcast(each, FLOATS) for each in bits]
    second = builder.add(place, integer(I64, 4 * HALF))
    return [load(builder, data, each, F32, HALF, 1) for each in (place, second)]


def fetch_ahead(builder: Any, code: int, data: Any, element: Any) -> None:
    """Ask for what `load_halves` will load of a tensor some runs later, so that it waits less for the memory."""
    place = builder.add(builder.mul(element, integer(I64, ITEMSIZES[code])), integer(I64, _AHEAD_BYTES))
    for line in range(0, RUN * ITEMSIZES[code], LINE_BYTES):
        ask_for(builder, builder.gep(data, [offset(builder, place, line)]))


def store_halves(builder: Any, code: int, halves: Sequence[Any], data: Any, element: Any) -> None:
    """Store both halves of a run, float32 bits that are finite in the dtype, where `load_halves` would find them."""
    place = builder.mul(element, integer(I64, ITEMSIZES[code]))
    if code == BF16:
        even, odd = (_round(builder, bits) for bits in halves)
        pairs = builder.or_(builder.lshr(even, words(16)), builder.and_(odd, words(0xFFFF0000)))
        store(builder, pairs, data, place, 1)
        return
    for low, bits in zip((0, HALF), halves, strict=True):
        store(builder, bits, data, builder.add(place, integer(I64, 4 * low)), 1)


def _round(builder: Any, bits: Any) -> Any:
    """Round float32 bits to bfloat16, to nearest even, in their upper half; what is in the lower half is left over."""
    odd = builder.and_(builder.lshr(bits, words(16)), words(1))
    return builder.add(builder.add(bits, words(0x7FFF)), odd)


def load_lanes(builder: Any, code: int, lanes: Any) -> list[Any]:
    """Load 32 sums in float64, each to where the element of its number is in the halves of a run."""
    first, second = (load(builder, lanes, integer(I64, low), F64, HALF, 8) for low in (0, HALF))
    if code != BF16:
        return [first, second]
    return [pick(builder, first, second, places) for places in (_EVEN, _ODD)]


def store_lanes(builder: Any, code: int, halves: Sequence[Any], lanes: Any) -> None:
    """Store sums where `load_lanes` found them."""
    if code == BF16:
        even, odd = halves
        halves = [pick(builder, even, odd, _WOVEN[low : low + HALF]) for low in (0, HALF)]
    for low, half in zip((0, HALF), halves, strict=True):
        store(builder, half, lanes, integer(I64, low), 8)
