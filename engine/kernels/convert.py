"""Conversions between stored bytes and float32, one tile at a time.

Kernels receive a stored tensor as a flat ``uint8`` array and a dtype code, so that one compiled kernel serves every
mixture of dtypes. Merges compute in float32. Decoding is exact for every dtype but float64, which is rounded to nearest
even; encoding rounds once, to nearest even.

Every intermediate integer is cast back to ``uint32``, because numba widens ``uint32 + uint32`` to 64 bits, which would
halve the number of elements in a vector. No sum or difference leaves the range of ``uint32``, so that the functions
give the same results, and no overflow warnings, when they run as plain Python.
"""

from __future__ import annotations

import numpy as np
from numba import njit

F32, F16, BF16, F64, F8_E4M3, F8_E5M2 = range(6)
"""Dtype codes; they index `ITEMSIZES`."""

ITEMSIZES = (4, 2, 2, 8, 1, 1)
"""Bytes of one element, by dtype code."""

_ABS = np.uint32(0x7FFFFFFF)
_EXP = np.uint32(0x7F800000)
_ONE = np.uint32(1)


@njit(nogil=True, cache=True, inline="always")
def _decode_f16(half: np.uint32) -> np.uint32:
    """Convert binary16 bits to float32 bits, exactly; subnormal numbers, NaN and infinity included."""
    sign = np.uint32((half & np.uint32(0x8000)) << np.uint32(16))
    # Shift the exponent and mantissa into place, then rebias by an exact multiplication with 2^112.
    shifted = np.uint32((half & np.uint32(0x7FFF)) << np.uint32(13))
    scaled = np.float32(np.uint32(shifted).view(np.float32) * np.float32(2.0**112)).view(np.uint32)
    special = (half & np.uint32(0x7C00)) == np.uint32(0x7C00)
    return np.uint32(sign | (np.uint32(shifted | _EXP) if special else scaled))


@njit(nogil=True, cache=True, inline="always")
def _decode_e4m3(byte: np.uint32) -> np.uint32:
    """Convert float8 E4M3 bits (of the variant without infinities) to float32 bits, exactly."""
    sign = np.uint32((byte & np.uint32(0x80)) << np.uint32(24))
    # As for binary16: shift the 7 low bits into place, then rebias from 7 to 127 by an exact multiplication.
    shifted = np.uint32((byte & np.uint32(0x7F)) << np.uint32(20))
    scaled = np.float32(np.uint32(shifted).view(np.float32) * np.float32(2.0**120)).view(np.uint32)
    is_nan = (byte & np.uint32(0x7F)) == np.uint32(0x7F)
    return np.uint32(sign | (np.uint32(0x7FC00000) if is_nan else scaled))


@njit(nogil=True, cache=True)
def decode(raw: np.ndarray, code: int, start: int, stop: int, out: np.ndarray) -> None:
    """Decode elements ``start:stop`` of a stored tensor into ``out[: stop - start]``.

    Parameters
    ----------
    raw : uint8[:]
        Stored bytes, contiguous; may be read-only.
    code : int
        Dtype code of `raw`.
    start, stop : int
        First element of `raw` and one past the last.
    out : float32[:]
        Receives ``stop - start`` values.

    """
    count = stop - start
    bits = out.view(np.uint32)
    if code == BF16:
        src16 = raw[2 * start : 2 * stop].view(np.uint16)
        for i in range(count):
            bits[i] = np.uint32(src16[i]) << np.uint32(16)
    elif code == F32:
        src32 = raw[4 * start : 4 * stop].view(np.uint32)
        for i in range(count):
            bits[i] = src32[i]
    elif code == F16:
        half = raw[2 * start : 2 * stop].view(np.uint16)
        for i in range(count):
            bits[i] = _decode_f16(np.uint32(half[i]))
    elif code == F64:
        src64 = raw[8 * start : 8 * stop].view(np.float64)
        for i in range(count):
            out[i] = np.float32(src64[i])
    elif code == F8_E5M2:
        # E5M2 is the upper byte of binary16.
        src8 = raw[start:stop]
        for i in range(count):
            bits[i] = _decode_f16(np.uint32(np.uint32(src8[i]) << np.uint32(8)))
    else:
        src8 = raw[start:stop]
        for i in range(count):
            bits[i] = _decode_e4m3(np.uint32(src8[i]))


@njit(nogil=True, cache=True, inline="always")
def _encode_bf16(bits: np.uint32) -> np.uint32:
    """Round a float32 that is not NaN, given as bits, to the bits of bfloat16: to nearest even."""
    sign = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000))
    magnitude = np.uint32(bits & _ABS)
    odd = np.uint32(np.uint32(magnitude >> np.uint32(16)) & _ONE)
    return np.uint32(sign | np.uint32(np.uint32(magnitude + np.uint32(0x7FFF) + odd) >> np.uint32(16)))


@njit(nogil=True, cache=True, inline="always")
def _encode_small(magnitude, mantissa, least, top):  # type: ignore[no-untyped-def]
    """Round the magnitude bits of a finite float32 to a format with `mantissa` bits of mantissa, to nearest even.

    `least` is the least normal number of the format, as float32 bits; `top` is the result for every magnitude that
    overflows the format.
    """
    shift = np.uint32(np.uint32(23) - mantissa)
    # Subnormal results: adding a power of two aligns the value so that the hardware rounds it to the last place.
    magic = np.uint32(least + np.uint32(shift << np.uint32(23)))
    below = np.uint32(min(magnitude, least))
    aligned = np.float32(np.uint32(below).view(np.float32) + np.uint32(magic).view(np.float32))
    small = np.uint32(aligned.view(np.uint32) - magic)
    # Normal results: rebias the exponent so that `least` has exponent 1, then round the mantissa away.
    rebias = np.uint32(least - np.uint32(1 << 23))
    normal = np.uint32(max(magnitude, least) - rebias)
    odd = np.uint32(np.uint32(normal >> shift) & _ONE)
    half = np.uint32(np.uint32(_ONE << np.uint32(shift - _ONE)) - _ONE)
    normal = np.uint32(np.uint32(normal + half + odd) >> shift)
    return small if magnitude < least else np.uint32(min(normal, top))


@njit(nogil=True, cache=True, inline="always")
def _encode_f16(bits: np.uint32) -> np.uint32:
    """Round float32 bits to binary16 bits: to nearest even, overflow to infinity, NaN to a quiet NaN."""
    sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
    absolute = np.uint32(bits & _ABS)
    magnitude = _encode_small(absolute, np.uint32(10), np.uint32(113 << 23), np.uint32(0x7C00))
    quiet = np.uint32(np.uint32(0x7E00) | np.uint32((bits >> np.uint32(13)) & np.uint32(0x3FF)))
    return np.uint32(sign | (quiet if absolute > _EXP else magnitude))


@njit(nogil=True, cache=True, inline="always")
def _encode_e5m2(bits: np.uint32) -> np.uint32:
    """Round float32 bits to float8 E5M2 bits: to nearest even, overflow to infinity."""
    sign = np.uint32((bits >> np.uint32(24)) & np.uint32(0x80))
    absolute = np.uint32(bits & _ABS)
    magnitude = _encode_small(absolute, np.uint32(2), np.uint32(113 << 23), np.uint32(0x7C))
    return np.uint32(sign | (np.uint32(0x7E) if absolute > _EXP else magnitude))


@njit(nogil=True, cache=True, inline="always")
def _encode_e4m3(bits: np.uint32) -> np.uint32:
    """Round float32 bits to bits of float8 E4M3 (the variant without infinities): to nearest even, overflow to NaN."""
    sign = np.uint32((bits >> np.uint32(24)) & np.uint32(0x80))
    absolute = np.uint32(bits & _ABS)
    magnitude = _encode_small(absolute, np.uint32(3), np.uint32(121 << 23), np.uint32(0x7F))
    return np.uint32(sign | (np.uint32(0x7F) if absolute >= _EXP else magnitude))


@njit(nogil=True, cache=True)
def _count_from(bits: np.ndarray, count: int, least: np.uint32) -> int:
    """Count the finite ones of the first `count` values with a magnitude of at least `least` (float32 bits)."""
    found = np.uint32(0)
    for i in range(count):
        magnitude = np.uint32(bits[i] & _ABS)
        found = np.uint32(found + np.uint32((magnitude >= least) & (magnitude < _EXP)))
    return int(np.int64(found))


@njit(nogil=True, cache=True)
def encode(values: np.ndarray, code: int, start: int, stop: int, raw: np.ndarray) -> int:
    """Encode ``values[: stop - start]`` as elements ``start:stop`` of a stored tensor.

    Parameters
    ----------
    values : float32[:]
        The values to store, fewer than 2^32.
    code : int
        Dtype code of `raw`.
    start, stop : int
        First element of `raw` and one past the last.
    raw : uint8[:]
        Stored bytes, contiguous; receives the elements.

    Returns
    -------
    int
        How many finite values became infinite or NaN because they overflow the stored dtype.

    """
    count = stop - start
    bits = values.view(np.uint32)
    if code == BF16:
        dst16 = raw[2 * start : 2 * stop].view(np.uint16)
        largest = np.uint32(0)
        for i in range(count):
            dst16[i] = np.uint16(_encode_bf16(bits[i]))
            largest = max(largest, np.uint32(bits[i] & _ABS))
        # Half the distance past the largest bfloat16 rounds up to infinity.
        if largest < np.uint32(0x7F7F8000):
            return 0
        if largest > _EXP:
            for i in range(count):
                if np.uint32(bits[i] & _ABS) > _EXP:  # the rounding above may have turned a NaN into a number
                    dst16[i] = np.uint16(np.uint32(bits[i] >> np.uint32(16)) | np.uint32(0x40))
        return _count_from(bits, count, np.uint32(0x7F7F8000))
    elif code == F32:
        dst32 = raw[4 * start : 4 * stop].view(np.uint32)
        for i in range(count):
            dst32[i] = bits[i]
        return 0
    elif code == F16:
        half = raw[2 * start : 2 * stop].view(np.uint16)
        for i in range(count):
            half[i] = np.uint16(_encode_f16(bits[i]))
        return _count_from(bits, count, np.uint32(0x477FF000))
    elif code == F64:
        dst64 = raw[8 * start : 8 * stop].view(np.float64)
        for i in range(count):
            dst64[i] = np.float64(values[i])
        return 0
    elif code == F8_E5M2:
        dst8 = raw[start:stop]
        for i in range(count):
            dst8[i] = np.uint8(_encode_e5m2(bits[i]))
        return _count_from(bits, count, np.uint32(0x47700000))
    else:
        dst8 = raw[start:stop]
        for i in range(count):
            dst8[i] = np.uint8(_encode_e4m3(bits[i]))
        # 464 lies halfway between 448, the largest, and the next step; ties go to the even 448.
        return _count_from(bits, count, np.uint32(0x43E80001))
