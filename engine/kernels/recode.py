"""Storing the elements of a tensor in another floating-point dtype, rounded once.

Every dtype but float64 decodes exactly into float32, so that only the encoding rounds. A float64 value that is to
become float32 is rounded directly. For a narrower target it is first *rounded to odd* as float32, which preserves
enough of the bits that are cut off for the second rounding to be right (S. Boldo, G. Melquiond, "Emulation of FMA and
correctly rounded sums: proved algorithms using rounding to odd", theorem 3: two bits more than the target has are
enough).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import F32, F64, ITEMSIZES, decode, encode
from dovetail.engine.kernels.statistics import count_nonfinite

TILE = 4096
"""Elements of a tile: few enough for the L1 and L2 caches, enough to outweigh the work around each loop."""

_EXP64 = np.uint64(0x7FF0000000000000)
_ABS = np.uint32(0x7FFFFFFF)
_ONE = np.uint32(1)


@njit(nogil=True, cache=True)
def _count_nonfinite64(bits: np.ndarray) -> int:
    """Count the float64 values, given as bits, that are NaN or infinite."""
    found = 0
    for i in range(len(bits)):
        found += (bits[i] & _EXP64) == _EXP64
    return found


@njit(nogil=True, cache=True)
def decode_to_odd(values: np.ndarray, out: np.ndarray) -> None:
    """Round float64 values to odd float32 values: of the two neighbours of a value, the one with its last bit set.

    A value that float32 holds exactly stays as it is, as do NaN and infinity.

    Parameters
    ----------
    values : float64[:]
        The values.
    out : float32[:]
        Receives the rounded values.

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
    """Store elements in another dtype, rounded once to nearest even; NaN and infinity are passed through.

    Parameters
    ----------
    raw : uint8[:]
        Stored bytes, contiguous; may be read-only.
    code : int
        Dtype code of `raw`.
    out : uint8[:]
        Receives the stored bytes of the same elements.
    out_code : int
        Dtype code of `out`.
    nonfinite : int64[:]
        One counter, to which the kernel adds the number of NaN and infinite elements of `raw`.

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
