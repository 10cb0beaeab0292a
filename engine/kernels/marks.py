"""Marks of one bit: of the values of a tile that are strong enough, and of runs of marks that are moved.

The lowest bit of a byte comes first. Lines of a tile and their marks reach to whole rows of `sums.ROW` elements.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import F32, I1, I32, I64, constant, data_of, fill, integer, load, loop, sum_lanes
from dovetail.engine.kernels.sums import ROW

GROUP: Final = 16
"""Elements that are marked at once."""

_INTEGERS = ir.VectorType(I32, GROUP)
_MARKS = ir.VectorType(I1, GROUP)
_NONE = constant(I32, [0] * GROUP)
_ABS = np.uint32(0x7FFFFFFF)
_BYTE = 8


def load_marks(builder: Any, bits: Any, place: Any) -> Any:
    """Load the marks of a group, of which the first has bit `place`, a multiple of eight."""
    byte = builder.gep(bits, [builder.lshr(place, integer(I64, 3))])
    return builder.load(builder.bitcast(byte, _MARKS.as_pointer()), align=1)


def store_marks(builder: Any, marks: Any, bits: Any, place: Any) -> None:
    """Store the marks of a group, of which the first has bit `place`, a multiple of eight."""
    byte = builder.gep(bits, [builder.lshr(place, integer(I64, 3))])
    builder.store(marks, builder.bitcast(byte, marks.type.as_pointer()), align=1)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Generate the loop that compares magnitudes with a least one, and counts those that are equal to another."""
    kinds = signature.args
    base, values, bits = (data_of(context, builder, kinds[i], arguments[i]) for i in (0, 1, 5))
    least, edge = (fill(builder, arguments[i], GROUP) for i in (2, 3))

    def sweep(group: Any, state: list[Any]) -> list[Any]:
        place = builder.mul(group, integer(I64, GROUP))
        tau = builder.fsub(load(builder, values, place, F32, GROUP, 4), load(builder, base, place, F32, GROUP, 4))
        magnitude = builder.and_(builder.bitcast(tau, _INTEGERS), constant(I32, [int(_ABS)] * GROUP))
        marks = builder.icmp_unsigned(">=", magnitude, least)
        store_marks(builder, marks, bits, place)
        return [builder.sub(state[0], builder.sext(builder.icmp_unsigned("==", magnitude, edge), _INTEGERS))]

    (found,) = loop(builder, builder.udiv(arguments[4], integer(I64, GROUP)), [_NONE], sweep)
    return builder.zext(sum_lanes(builder, found), I64)


@intrinsic
def _mark(typing, base, values, least, edge, count, bits):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments)

    return types.int64(base, values, types.uint32, types.uint32, types.int64, bits), generate


def _mark_plainly(base, values, least, edge, count, bits):  # type: ignore[no-untyped-def]
    magnitudes = (values[:count] - base[:count]).view(np.uint32) & _ABS
    bits[: count // 8] = np.packbits(magnitudes >= least, bitorder="little")
    return int((magnitudes == edge).sum())


_mark_from: Final[Any] = _mark_plainly if settings.DISABLE_JIT else _mark


@njit(nogil=True, cache=True)
def mark_above(base, values, count, rule, seen, bits):  # type: ignore[no-untyped-def]
    """Mark the changes with a magnitude above a threshold, and the first ones of the tensor at it; zeros never.

    Parameters
    ----------
    base, values : float32[:]
        The base model's values of a tile and a model's. Beyond `count`, the kernel fills them with zeros.
    count : int
        Elements of the tile.
    rule : (int, int)
        The threshold, as magnitude bits; and how many changes of the tensor with just that magnitude are marked,
        lowest indices first.
    seen : int
        How many changes of that magnitude come before these in the tensor.
    bits : uint8[:]
        Receives the marks; those beyond `count` are 0.

    Returns
    -------
    int
        `seen` plus the number of these changes with just that magnitude.

    """
    threshold, ties = rule
    edge, padded = np.uint32(threshold), -(-count // ROW) * ROW
    base[count:padded], values[count:padded] = np.float32(0.0), np.float32(0.0)
    left = max(ties - seen, 0) if threshold > 0 else 0
    includes = left >= count
    found = _mark_from(base, values, edge if includes else np.uint32(edge + np.uint32(1)), edge, padded, bits)
    if threshold == 0:
        return seen
    if left > 0 and not includes:
        left = min(left, found)
        for i in range(count):
            if left == 0:
                break
            if np.uint32(np.float32(values[i] - base[i]).view(np.uint32) & _ABS) == edge:
                bits[i >> 3] |= np.uint8(np.uint8(1) << np.uint8(i & 7))
                left -= 1
    return seen + found


@njit(nogil=True, cache=True)
def take_bits(bits, first, count, out):  # type: ignore[no-untyped-def]
    """Copy a run of bits to the beginning of a line, with zeros after it.

    Parameters
    ----------
    bits : uint8[:]
        Marks of one bit, the lowest bit of a byte first.
    first, count : int
        Place of the run's first bit, and bits of the run.
    out : uint8[:]
        Receives the run.

    """
    begin, size = first // _BYTE, -(-count // _BYTE)
    low, high = np.uint8(first % _BYTE), np.uint8(_BYTE - first % _BYTE)
    origin = bits[begin : begin + size]
    # Slices of their own, because LLVM makes vector code of loops that count from 0.
    for i in range(size):
        out[i] = origin[i]
    if low != 0:
        beyond = bits[begin + 1 : begin + size + 1]
        for i in range(size):
            out[i] = np.uint8(out[i] >> low)
        for i in range(len(beyond)):
            out[i] |= np.uint8(beyond[i] << high)
    if count % _BYTE:
        out[size - 1] &= np.uint8((1 << (count % _BYTE)) - 1)
    out[size:] = 0


@njit(nogil=True, cache=True)
def put_bits(bits, count, first, out):  # type: ignore[no-untyped-def]
    """Set the bits of a run in a longer one, where they are 0.

    Parameters
    ----------
    bits : uint8[:]
        Marks of one bit, the lowest bit of a byte first; those beyond the run are 0.
    count : int
        Bits of the run.
    first : int
        Place in `out` of the run's first bit.
    out : uint8[:]
        Marks of one bit.

    """
    begin, size = first // _BYTE, -(-count // _BYTE)
    low, high = np.uint8(first % _BYTE), np.uint8(_BYTE - first % _BYTE)
    target = out[begin : begin + size]
    for i in range(size):
        target[i] |= np.uint8(bits[i] << low)
    if low != 0:
        beyond = out[begin + 1 : begin + size + 1]
        for i in range(len(beyond)):
            beyond[i] |= np.uint8(bits[i] >> high)
