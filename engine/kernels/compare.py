"""Measuring how far the elements of two floating-point tensors lie apart.

Values are compared exactly, as float64, because every dtype decodes into float64 without loss. Distances in *units in
the last place* (ulp) are counted in the coarser of the two dtypes, which is the one with fewer bits of mantissa: both
values are rounded to that dtype, to nearest even, and the distance is the number of steps between neighbouring numbers
of the dtype that lead from one value to the other. The two zeros are one number. By this definition a tensor and its
correctly rounded conversion are 0 units apart.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import BF16, F8_E4M3, F8_E5M2, F16, F32, F64, ITEMSIZES, decode, encode
from dovetail.engine.kernels.recode import decode_to_odd

TILE = 2048
"""Elements of a tile, chosen so that the few tiles of float64 that a comparison needs stay in the L1 cache."""

CHANGED, UNMATCHED, FARTHEST = range(3)
"""Positions in the counts that `compare` updates."""

LARGEST, RELATIVE = range(2)
"""Positions in the maxima that `compare` updates."""

_COARSENESS = (F64, F32, F16, BF16, F8_E4M3, F8_E5M2)
_MAX = np.finfo(np.float64).max


def coarser(first: int, second: int) -> int:
    """Choose, of two dtype codes, that of the dtype with fewer bits of mantissa."""
    return max(first, second, key=_COARSENESS.index)


@njit(nogil=True, cache=True)
def _same_bytes(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two arrays of equal length hold the same bytes."""
    differing = np.uint8(0)
    for i in range(len(first)):
        differing = np.uint8(differing | np.uint8(first[i] ^ second[i]))
    return bool(differing == 0)


@njit(nogil=True, cache=True)
def _widen(raw, code, start, stop, narrow, wide):  # type: ignore[no-untyped-def]
    """Decode elements ``start:stop`` into float64, exactly."""
    count = stop - start
    if code == F64:
        values = raw[8 * start : 8 * stop].view(np.float64)
        for i in range(count):
            wide[i] = values[i]
    else:
        decode(raw, code, start, stop, narrow)
        for i in range(count):
            wide[i] = np.float64(narrow[i])


@njit(nogil=True, cache=True, error_model="numpy")
def _distances(x, y, measured, counts, maxima):  # type: ignore[no-untyped-def]
    """Count the elements of a tile that differ, mark those that have a distance, and raise the maxima.

    The maxima are taken over bit patterns, which for numbers that are not negative are in the order of the numbers:
    compilers turn the maximum of integers into vector code, but not that of floating-point numbers.
    """
    changed = unmatched = np.int64(0)
    absolute = relative = np.int64(0)
    for i in range(len(x)):
        a, b = abs(x[i]), abs(y[i])
        differs = (x[i] != y[i]) & ((x[i] == x[i]) | (y[i] == y[i]))
        finite = (a <= _MAX) & (b <= _MAX)
        changed += np.int64(differs)
        unmatched += np.int64(differs & (not finite))
        counted = differs & finite
        measured[i] = counted
        distance = min(abs(x[i] - y[i]), _MAX) if counted else np.float64(0.0)
        share = distance / (max(a, b) if counted else np.float64(1.0))
        absolute = max(absolute, np.float64(distance).view(np.int64))
        relative = max(relative, np.float64(share).view(np.int64))
    counts[CHANGED] += np.uint64(changed)
    counts[UNMATCHED] += np.uint64(unmatched)
    maxima[LARGEST] = max(maxima[LARGEST], np.int64(absolute).view(np.float64))
    maxima[RELATIVE] = max(maxima[RELATIVE], np.int64(relative).view(np.float64))


@njit(nogil=True, cache=True)
def _round_to(raw, code, start, stop, narrow, coarse, out):  # type: ignore[no-untyped-def]
    """Round elements ``start:stop`` once, to the dtype `coarse`, and store them from the beginning of `out`."""
    size = ITEMSIZES[coarse]
    if code == coarse:
        out[: (stop - start) * size] = raw[start * size : stop * size]
        return
    if code == F64 and coarse != F32:
        decode_to_odd(raw[8 * start : 8 * stop].view(np.float64), narrow)
    else:
        decode(raw, code, start, stop, narrow)
    encode(narrow, coarse, 0, stop - start, out)


@njit(nogil=True, cache=True)
def _farthest(first, second, measured, sign):  # type: ignore[no-untyped-def]
    """Find the greatest number of steps between two patterns of at most 32 bits.

    Bit `sign` of a pattern is its sign, and the bits below are its magnitude.
    """
    mask = np.int64((1 << sign) - 1)
    most = np.int64(0)
    for i in range(len(measured)):
        a, b = np.int64(first[i]), np.int64(second[i])
        p = -(a & mask) if a > mask else a
        q = -(b & mask) if b > mask else b
        most = max(most, abs(p - q) if measured[i] else np.int64(0))
    return most


@njit(nogil=True, cache=True)
def _farthest64(first, second, measured):  # type: ignore[no-untyped-def]
    """Find the greatest number of steps between two float64 patterns; the number can take all of 64 bits."""
    mask = np.uint64(0x7FFFFFFFFFFFFFFF)
    most = np.uint64(0)
    for i in range(len(measured)):
        p, q = np.uint64(first[i] & mask), np.uint64(second[i] & mask)
        apart = (first[i] > mask) != (second[i] > mask)
        steps = np.uint64(p + q) if apart else (np.uint64(p - q) if p > q else np.uint64(q - p))
        most = max(most, steps if measured[i] else np.uint64(0))
    return most


@njit(nogil=True, cache=True)
def compare(first, first_code, second, second_code, coarse, counts, maxima):  # type: ignore[no-untyped-def]
    """Compare the elements of two tensors, one by one.

    Two values are equal if they are the same number (0.0 and -0.0 are), the same infinity, or both NaN. Two values that
    differ and are not both finite are *unmatched*: they are counted, but they have no distance.

    Parameters
    ----------
    first, second : uint8[:]
        Stored bytes of the two tensors, which have equally many elements; contiguous, may be read-only.
    first_code, second_code : int
        Dtype codes of the two.
    coarse : int
        The code that `coarser` chooses of the two.
    counts : uint64[3]
        At `CHANGED` and `UNMATCHED`, numbers of elements, which the kernel adds to; at `FARTHEST`, the greatest
        distance in units in the last place so far, which the kernel raises.
    maxima : float64[2]
        At `LARGEST` and `RELATIVE`, the greatest ``|a - b|`` and the greatest ``|a - b| / max(|a|, |b|)`` so far, which
        the kernel raises. A difference beyond the range of float64 counts as the greatest float64.

    """
    first_size, second_size, size = ITEMSIZES[first_code], ITEMSIZES[second_code], ITEMSIZES[coarse]
    narrow = np.empty(TILE, np.float32)
    x, y = np.empty(TILE, np.float64), np.empty(TILE, np.float64)
    measured = np.empty(TILE, np.bool_)
    p, q = np.empty(TILE * size, np.uint8), np.empty(TILE * size, np.uint8)
    length = len(first) // first_size
    for start in range(0, length, TILE):
        stop = min(start + TILE, length)
        count = stop - start
        if first_code == second_code and _same_bytes(
            first[start * first_size : stop * first_size], second[start * second_size : stop * second_size]
        ):
            continue
        _widen(first, first_code, start, stop, narrow[:count], x[:count])
        _widen(second, second_code, start, stop, narrow[:count], y[:count])
        _distances(x[:count], y[:count], measured[:count], counts, maxima)
        _round_to(first, first_code, start, stop, narrow[:count], coarse, p)
        _round_to(second, second_code, start, stop, narrow[:count], coarse, q)
        marks = measured[:count]
        if size == 1:
            most = np.uint64(_farthest(p[:count], q[:count], marks, 7))
        elif size == 2:
            most = np.uint64(_farthest(p[: 2 * count].view(np.uint16), q[: 2 * count].view(np.uint16), marks, 15))
        elif size == 4:
            most = np.uint64(_farthest(p[: 4 * count].view(np.uint32), q[: 4 * count].view(np.uint32), marks, 31))
        else:
            most = _farthest64(p[: 8 * count].view(np.uint64), q[: 8 * count].view(np.uint64), marks)
        counts[FARTHEST] = max(counts[FARTHEST], most)


def scratch_bytes() -> int:
    """Give the working memory of `compare`, in bytes."""
    return TILE * (4 + 2 * 8 + 1 + 2 * 8)


def trial() -> None:
    """Compare four elements, so that the kernel is compiled, or loaded from the cache, before it is needed."""
    raw = np.zeros(16, np.uint8)
    raw.flags.writeable = False
    compare(raw, F32, raw, F32, F32, np.zeros(3, np.uint64), np.zeros(2))
