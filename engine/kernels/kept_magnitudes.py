"""Sums of magnitudes of a task vector and of the part that is kept, in one sweep, and tile by tile.

The order of additions is that of `sums.sum_magnitudes`, and so are the bits: a run that is added in tiles gives what
one call would give. Every tile but the last of a run consists of whole rows.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import (
    F32,
    F64,
    I32,
    I64,
    constant,
    data_of,
    integer,
    load,
    loop,
    pick,
    store,
)
from dovetail.engine.kernels.marks import GROUP, load_marks
from dovetail.engine.kernels.sums import LANES, ROW

_HALF: Final = GROUP // 2
_HALVES = (range(_HALF), range(_HALF, GROUP))
_WIDE = ir.VectorType(F64, _HALF)
_NOTHING = ir.Constant(_WIDE, [0.0] * _HALF)
_INTEGERS, _FLOATS = ir.VectorType(I32, GROUP), ir.VectorType(F32, GROUP)
_ABS = constant(I32, [0x7FFFFFFF] * GROUP)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Generate the loop over the halves of the lanes of rows."""
    kinds = signature.args
    base, values, bits, lanes = (data_of(context, builder, kinds[i], arguments[i]) for i in (0, 1, 2, 4))

    def sweep(index: Any, nothing: list[Any]) -> list[Any]:
        lane = builder.mul(builder.and_(index, integer(I64, 1)), integer(I64, GROUP))
        first = builder.add(builder.mul(builder.lshr(index, integer(I64, 1)), integer(I64, ROW)), lane)
        whole: list[Any] = [None, None]
        kept = [_NOTHING, _NOTHING]
        for part in range(0, ROW, LANES):
            place = builder.add(first, integer(I64, part))
            tau = builder.fsub(load(builder, values, place, F32, GROUP, 4), load(builder, base, place, F32, GROUP, 4))
            magnitude = builder.bitcast(builder.and_(builder.bitcast(tau, _INTEGERS), _ABS), _FLOATS)
            marks = load_marks(builder, bits, place)
            for half, numbers in enumerate(_HALVES):
                wide = builder.fpext(pick(builder, magnitude, magnitude, numbers), _WIDE)
                whole[half] = wide if whole[half] is None else builder.fadd(whole[half], wide)
                added = builder.fadd(kept[half], wide)
                kept[half] = builder.select(pick(builder, marks, marks, numbers), added, kept[half])
        for line, found in enumerate((whole, kept)):
            for half, sum_ in enumerate(found):
                place = builder.add(lane, integer(I64, line * LANES + half * _HALF))
                store(builder, builder.fadd(load(builder, lanes, place, F64, _HALF, 8), sum_), lanes, place, 8)
        return nothing

    loop(builder, builder.shl(arguments[3], integer(I64, 1)), [], sweep)
    return context.get_dummy_value()


@intrinsic
def _add(typing, base, values, bits, rows, lanes):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments)

    return types.void(base, values, bits, types.int64, lanes), generate


def _add_plainly(base, values, bits, rows, lanes):  # type: ignore[no-untyped-def]
    magnitudes = np.abs(values[: rows * ROW] - base[: rows * ROW]).astype(np.float64)
    marks = np.unpackbits(bits, count=rows * ROW, bitorder="little")
    for line, terms in zip(lanes, (magnitudes, np.where(marks != 0, magnitudes, 0.0)), strict=True):
        for row in terms.reshape(rows, ROW // LANES, LANES):
            line += row[0] + row[1] + row[2] + row[3]


_add_rows: Final[Any] = _add_plainly if settings.DISABLE_JIT else _add


@njit(nogil=True, cache=True)
def add_magnitudes(base, values, bits, count, lanes, is_last):  # type: ignore[no-untyped-def]
    """Add a tile to the sums of magnitudes of a run.

    Parameters
    ----------
    base, values : float32[:]
        The base model's values of the tile, and a model's.
    bits : uint8[:]
        Marks of one bit of what the model keeps, the lowest bit of a byte first.
    count : int
        Elements of the tile.
    lanes : float64[2, LANES]
        The sums so far; zeros before the first tile of a run, and again after the last.
    is_last : bool
        Whether this is the last tile of the run.

    Returns
    -------
    (float, float)
        After the last tile the sum over the task vector and that over its kept part, else zeros.

    """
    # Slow equivalent: sum_magnitudes(run), sum_magnitudes(np.where(mask, run, 0))
    rows, whole, kept = count // ROW, 0.0, 0.0
    _add_rows(base, values, bits, rows, lanes)
    if is_last:
        for lane in range(LANES):
            whole += lanes[0, lane]
            kept += lanes[1, lane]
        for i in range(rows * ROW, count):
            magnitude = np.float64(abs(np.float32(values[i] - base[i])))
            whole += magnitude
            if (bits[i >> 3] >> np.uint8(i & 7)) & np.uint8(1):
                kept += magnitude
        lanes[:] = 0.0
    return whole, kept
