"""Counting a tensor's changes against a bracket, in which the magnitude of a wanted rank is expected to lie."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.bits import lowest_one
from dovetail.engine.kernels.emit import F32, I32, I64, constant, data_of, fill, integer, load, loop, sum_lanes
from dovetail.engine.kernels.marks import GROUP, store_marks
from dovetail.engine.kernels.reading import STEP, read_tile
from dovetail.engine.kernels.sums import ROW
from dovetail.engine.kernels.task_vectors import subtract

_ABS: Final = 0x7FFFFFFF
_WORD: Final = 64
"""Marks that are read as one word: if none is set, all are passed over."""

ABOVE, HIGH, LOW, NONZERO = range(4)
"""What the counts of a bracket are of: magnitudes above it, equal to its upper edge, equal to its lower edge, and all
that are not zero."""

_INTEGERS = ir.VectorType(I32, GROUP)
_NONE = constant(I32, [0] * GROUP)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Generate the loop that compares magnitudes with both edges, counts them, and marks those inside."""
    kinds = signature.args
    values, found, bits = (data_of(context, builder, kinds[i], arguments[i]) for i in (0, 4, 5))
    least, most = (fill(builder, arguments[i], GROUP) for i in (1, 2))

    def sweep(group: Any, counts: list[Any]) -> list[Any]:
        place = builder.mul(group, integer(I64, GROUP))
        stored = builder.bitcast(load(builder, values, place, F32, GROUP, 4), _INTEGERS)
        magnitude = builder.and_(stored, constant(I32, [_ABS] * GROUP))
        is_above = builder.icmp_unsigned(">", magnitude, most)
        is_high, is_low = (builder.icmp_unsigned("==", magnitude, edge) for edge in (most, least))
        is_some = builder.icmp_unsigned("!=", magnitude, _NONE)
        is_inside = builder.and_(
            builder.icmp_unsigned(">", magnitude, least), builder.icmp_unsigned("<", magnitude, most)
        )
        store_marks(builder, is_inside, bits, place)
        conditions = zip(counts, (is_above, is_high, is_low, is_some), strict=True)
        return [builder.sub(count, builder.sext(condition, _INTEGERS)) for count, condition in conditions]

    groups = builder.udiv(arguments[3], integer(I64, GROUP))
    for place, lanes in enumerate(loop(builder, groups, [_NONE] * 4, sweep)):
        at = builder.gep(found, [integer(I64, place)])
        builder.store(builder.add(builder.load(at), builder.zext(sum_lanes(builder, lanes), I64)), at)
    return context.get_dummy_value()


@intrinsic
def _count(typing, values, least, most, count, found, bits):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments)

    return types.void(values, types.uint32, types.uint32, types.int64, found, bits), generate


def _count_plainly(values, least, most, count, found, bits):  # type: ignore[no-untyped-def]
    magnitudes = values[:count].view(np.uint32) & np.uint32(_ABS)
    conditions = magnitudes > most, magnitudes == most, magnitudes == least, magnitudes != 0
    found += [int(condition.sum()) for condition in conditions]
    bits[: count // 8] = np.packbits((magnitudes > least) & (magnitudes < most), bitorder="little")


_count_tile: Final[Any] = _count_plainly if settings.DISABLE_JIT else _count


@njit(nogil=True, cache=True)
def _count_and_gather(values, count, edges, bits, inside, place, counts):  # type: ignore[no-untyped-def]
    """Count the values of a tile, write the magnitude bits of those inside from `place` on, and give what follows."""
    values[count : -(-count // ROW) * ROW] = np.float32(0.0)
    _count_tile(values, np.uint32(edges[0]), np.uint32(edges[1]), -(-count // ROW) * ROW, counts, bits)
    magnitudes, words = values.view(np.uint32), bits.view(np.uint64)
    for word in range(-(-count // _WORD)):
        left = words[word]
        while left != np.uint64(0):
            inside[place] = np.uint32(magnitudes[word * _WORD + lowest_one(left)] & np.uint32(_ABS))
            place += 1
            left = np.uint64(left & np.uint64(left - np.uint64(1)))
    return place


@njit(nogil=True, cache=True)
def count_bracket(values, edges, inside, counts):  # type: ignore[no-untyped-def]
    """Count magnitudes above a bracket and at its edges, and gather those strictly inside.

    Parameters
    ----------
    values : float32[:]
        The values, contiguous; fewer than 2^32.
    edges : (int, int)
        The edges of the bracket, as magnitude bits; the first is above 0, and not above the second.
    inside : uint32[:]
        Receives the magnitude bits of the values strictly inside, in order; it has room for all of them.
    counts : int64[4]
        Counts by `ABOVE`, `HIGH`, `LOW` and `NONZERO`, which the kernel adds to. If the edges are equal, both are
        counted.

    Returns
    -------
    int
        How many values are strictly inside.

    """
    tile, bits, place = np.empty(STEP, np.float32), np.empty(STEP // 8, np.uint8), 0
    for first in range(0, len(values), STEP):
        count = min(STEP, len(values) - first)
        tile[:count] = values[first : first + count]
        place = _count_and_gather(tile, count, edges, bits, inside, place, counts)
    return place


@njit(nogil=True, cache=True)
def count_changes(sources, codes, start, stop, edges, inside, counts):  # type: ignore[no-untyped-def]
    """Do as `count_bracket` does, for the changes of a stored model.

    Parameters
    ----------
    sources : (uint8[:], uint8[:])
        Stored bytes of the base model and of the model.
    codes : int64[2]
        Their dtype codes.
    start, stop : int
        The elements.
    edges, counts
        As for `count_bracket`.
    inside : uint32[:]
        Receives the magnitude bits of the changes strictly inside, in order; there is room for `STEP` or all of them.

    Returns
    -------
    (int, int)
        The first element that is not counted, for which there may be no room; and how many changes are strictly inside.

    """
    lines, bits, place = np.empty((2, STEP), np.float32), np.empty(STEP // 8, np.uint8), 0
    for first in range(start, stop, STEP):
        last = min(first + STEP, stop)
        if len(inside) - place < last - first:
            return first, place
        read_tile(sources, codes, first, last, stop, lines)
        subtract(lines[1], lines[0])
        place = _count_and_gather(lines[1], last - first, edges, bits, inside, place, counts)
    return stop, place
