"""Conversions between stored bytes and float32, one tile at a time.

Kernels see stored tensors as flat ``uint8`` arrays plus a dtype code, so that one compiled kernel serves
every mixture of dtypes. All maths is float32. Decoding is exact except for F64 (rounded to nearest even);
encoding rounds once to nearest even.
"""

from __future__ import annotations

import numpy as np
from numba import njit

F32, F16, BF16, F64, F8_E4M3, F8_E5M2 = range(6)
"""Dtype codes, the order of `ITEMSIZES`."""

ITEMSIZES = (4, 2, 2, 8, 1, 1)
"""Bytes an element, by dtype code."""

_ABS = np.uint32(0x7FFFFFFF)
_EXP = np.uint32(0x7F800000)
_ONE = np.uint32(1)


@njit(nogil=True, cache=True)
def _decode_f16_bits(half: np.uint32) -> np.uint32:
    """Float32 bits of a binary16 value given as an integer; exact, subnormals and specials included."""
    sign = (half & np.uint32(0x8000)) << np.uint32(16)
    # Shift the exponent and mantissa into place, then rebias by an exact multiplication with 2^112.
    shifted = np.uint32((half & np.uint32(0x7FFF)) << np.uint32(13))
    scaled = (shifted.view(np.float32) * np.float32(2.0**112)).view(np.uint32)
    special = (half & np.uint32(0x7C00)) == np.uint32(0x7C00)
    magnitude = (shifted | _EXP) if special else scaled
    return np.uint32(sign | magnitude)


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
        Element range in `raw`.
    out : float32[:]
        Receives ``stop - start`` values.

    """
    count = stop - start
    bits = out.view(np.uint32)
    if code == BF16:
        src16 = raw.view(np.uint16)[start:stop]
        for i in range(count):
            bits[i] = np.uint32(src16[i]) << np.uint32(16)
    elif code == F32:
        src32 = raw.view(np.uint32)[start:stop]
        for i in range(count):
            bits[i] = src32[i]
    elif code == F16:
        half = raw.view(np.uint16)[start:stop]
        for i in range(count):
            bits[i] = _decode_f16_bits(np.uint32(half[i]))
    elif code == F64:
        src64 = raw.view(np.float64)[start:stop]
        for i in range(count):
            out[i] = np.float32(src64[i])
    elif code == F8_E5M2:
        # E5M2 is the upper byte of binary16.
        for i in range(count):
            bits[i] = _decode_f16_bits(np.uint32(raw[start + i]) << np.uint32(8))
    else:
        for i in range(count):
            byte = np.uint32(raw[start + i])
            # As for binary16: place the 7 low bits, rebias from 7 to 127 by an exact multiplication.
            shifted = np.uint32((byte & np.uint32(0x7F)) << np.uint32(20))
            scaled = (shifted.view(np.float32) * np.float32(2.0**120)).view(np.uint32)
            magnitude = np.uint32(0x7FC00000) if (byte & np.uint32(0x7F)) == np.uint32(0x7F) else scaled
            bits[i] = ((byte & np.uint32(0x80)) << np.uint32(24)) | magnitude


@njit(nogil=True, cache=True)
def _encode_bf16(bits: np.uint32) -> np.uint32:
    """Bfloat16 bits of a float32 given as bits: nearest even; NaN stays a (quiet) NaN."""
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & _ONE)) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return quiet if (bits & _ABS) > _EXP else rounded


@njit(nogil=True, cache=True)
def _encode_small(
    bits: np.uint32, mantissa: np.uint32, smallest: np.uint32, bias_shift: np.uint32, top: np.uint32
) -> np.uint32:
    """Magnitude bits of a float32 in a format with `mantissa` mantissa bits, nearest even, no specials.

    `smallest` holds the float32 bits of the least normal number of the format, `bias_shift` the difference of
    the exponent biases (127 minus the format's), `top` the result for everything that overflows.
    """
    magnitude = np.uint32(bits & _ABS)
    shift = np.uint32(23) - mantissa
    # Subnormal results: adding 2^(k) aligns the value so that the hardware rounds it to the last place.
    magic = np.uint32(smallest + (shift << np.uint32(23))).view(np.float32)
    small = (magnitude.view(np.float32) + magic).view(np.uint32) - magic.view(np.uint32)
    half = (_ONE << (shift - _ONE)) - _ONE
    normal = magnitude - (bias_shift << np.uint32(23))
    normal = (normal + half + ((normal >> shift) & _ONE)) >> shift
    result = small if magnitude < smallest else normal
    return min(result, top) if magnitude >= smallest else result


@njit(nogil=True, cache=True)
def _encode_f16(bits: np.uint32) -> np.uint32:
    """Binary16 bits of a float32 given as bits: nearest even, overflow to infinity, NaN to a quiet NaN."""
    sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
    magnitude = _encode_small(bits, np.uint32(10), np.uint32(113 << 23), np.uint32(112), np.uint32(0x7C00))
    is_nan = (bits & _ABS) > _EXP
    payload = np.uint32(0x7E00) | ((bits >> np.uint32(13)) & np.uint32(0x3FF))
    return sign | (payload if is_nan else magnitude)


@njit(nogil=True, cache=True)
def _encode_e5m2(bits: np.uint32) -> np.uint32:
    """Float8 E5M2 bits of a float32 given as bits: nearest even, overflow to infinity."""
    sign = (bits >> np.uint32(24)) & np.uint32(0x80)
    magnitude = _encode_small(bits, np.uint32(2), np.uint32(113 << 23), np.uint32(112), np.uint32(0x7C))
    return sign | (np.uint32(0x7E) if (bits & _ABS) > _EXP else magnitude)


@njit(nogil=True, cache=True)
def _encode_e4m3(bits: np.uint32) -> np.uint32:
    """Float8 E4M3 (the finite-only variant) bits of a float32 given as bits: nearest even, overflow to NaN."""
    sign = (bits >> np.uint32(24)) & np.uint32(0x80)
    magnitude = _encode_small(bits, np.uint32(3), np.uint32(121 << 23), np.uint32(120), np.uint32(0x7F))
    return sign | (np.uint32(0x7F) if (bits & _ABS) >= _EXP else magnitude)


@njit(nogil=True, cache=True)
def encode(values: np.ndarray, code: int, start: int, stop: int, raw: np.ndarray) -> int:
    """Encode ``values[: stop - start]`` as elements ``start:stop`` of a stored tensor.

    Parameters
    ----------
    values : float32[:]
        What to store.
    code : int
        Dtype code of `raw`.
    start, stop : int
        Element range in `raw`.
    raw : uint8[:]
        Stored bytes, contiguous, writable.

    Returns
    -------
    int
        How many finite values became infinite or NaN because they overflow the stored dtype.

    """
    count = stop - start
    bits = values.view(np.uint32)
    overflowed = 0
    if code == BF16:
        dst16 = raw.view(np.uint16)[start:stop]
        for i in range(count):
            dst16[i] = np.uint16(_encode_bf16(bits[i]))
            # Half the distance past the largest bfloat16 rounds up to infinity.
            magnitude = bits[i] & _ABS
            overflowed += (magnitude >= np.uint32(0x7F7F8000)) & (magnitude < _EXP)
    elif code == F32:
        dst32 = raw.view(np.uint32)[start:stop]
        for i in range(count):
            dst32[i] = bits[i]
    elif code == F16:
        half = raw.view(np.uint16)[start:stop]
        for i in range(count):
            half[i] = np.uint16(_encode_f16(bits[i]))
            magnitude = bits[i] & _ABS
            overflowed += (magnitude >= np.uint32(0x477FF000)) & (magnitude < _EXP)
    elif code == F64:
        dst64 = raw.view(np.float64)[start:stop]
        for i in range(count):
            dst64[i] = np.float64(values[i])
    elif code == F8_E5M2:
        for i in range(count):
            raw[start + i] = np.uint8(_encode_e5m2(bits[i]))
            magnitude = bits[i] & _ABS
            overflowed += (magnitude >= np.uint32(0x47700000)) & (magnitude < _EXP)
    else:
        for i in range(count):
            raw[start + i] = np.uint8(_encode_e4m3(bits[i]))
            magnitude = bits[i] & _ABS
            # 464 lies halfway between 448, the largest, and the next step; ties go to the even 448.
            overflowed += (magnitude > np.uint32(0x43E80000)) & (magnitude < _EXP)
    return overflowed
