"""Storing a tensor's elements in another floating-point dtype, rounded once.

Every dtype but float64 is decoded exactly into float32, so that encoding rounds once. Float64 is not: it is rounded to
float32 only where that is what is wanted. For narrower dtypes it is cut to float32 *by rounding to odd* first, which
keeps enough of what was cut off for the second rounding to be right (S. Boldo, G. Melquiond, "Emulation of FMA and
correctly rounded sums: proved algorithms using rounding to odd", theorem 3: two more bits than the target suffice).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import F32, F64, ITEMSIZES, decode, encode
from dovetail.engine.kernels.statistics import count_nonfinite

TILE = 4096
"""Elements of a tile: few enough for the nearest caches, enough to outweigh the work around each loop."""

_EXP64 = np.uint64(0x7FF0000000000000)
_ABS = np.uint32(0x7FFFFFFF)
_ONE = np.uint32(1)


@njit(nogil=True, cache=True)
def _count_nonfinite64(bits: np.ndarray) -> int:
    """How many float64 values, given as bits, are NaN or infinite."""
    found = 0
    for i in range(len(bits)):
        found += (bits[i] & _EXP64) == _EXP64
    return found


@njit(nogil=True, cache=True)
def decode_to_odd(values: np.ndarray, out: np.ndarray) -> None:
    """Round float64 values to float32 by rounding to odd: what is not exact gets the neighbour whose last bit is set.

    Parameters
    ----------
    values : float64[:]
        Any values; NaN and infinity stay what they are.
    out : float32[:]
        Receives as many.

    """
    bits = out.view(np.uint32)
    for i in range(len(values)):
        value = values[i]
        nearest = np.float32(value)
        wide = np.float64(nearest)
        pattern = np.uint32(nearest.view(np.uint32))
        if wide != value and not np.isnan(value):
            if abs(wide) > abs(value):
                pattern = np.uint32(pattern - _ONE)  # towards zero; infinity becomes the greatest number
            pattern = np.uint32(pattern | _ONE)
        bits[i] = pattern


@njit(nogil=True, cache=True)
def recode(raw: np.ndarray, code: int, out: np.ndarray, out_code: int, nonfinite: np.ndarray) -> int:
    """Store elements in another dtype: nearest even, rounded once, NaN and infinity passed through.

    Parameters
    ----------
    raw : uint8[:]
        Stored bytes, contiguous; may be read-only.
    code : int
        Their dtype code.
    out : uint8[:]
        Receives the stored bytes of as many elements.
    out_code : int
        Its dtype code.
    nonfinite : int64[:]
        One counter of the NaN and infinite elements of `raw`; added to.

    Returns
    -------
    int
        How many finite elements became infinite or NaN because they overflow the new dtype.

    """
    length = len(out) // ITEMSIZES[out_code]
    tile = np.empty(TILE, np.float32)
    overflowed = 0
    for start in range(0, length, TILE):
        stop = min(start + TILE, length)
        values = tile[: stop - start]
        if code == F64:
            part = raw[8 * start : 8 * stop]
            before = _count_nonfinite64(part.view(np.uint64))
            if out_code == F32:
                decode(raw, code, start, stop, values)
                overflowed += count_nonfinite(values) - before
            else:
                decode_to_odd(part.view(np.float64), values)
        else:
            decode(raw, code, start, stop, values)
            before = count_nonfinite(values)
        nonfinite[0] += before
        overflowed += encode(values, out_code, start, stop, out)
    return overflowed
