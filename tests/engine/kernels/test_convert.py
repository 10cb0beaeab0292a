"""Conversions agree with ml_dtypes on every bit pattern and around every rounding boundary."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numba.core import config
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import BF16, F8_E4M3, F8_E5M2, F16, F32, F64, decode, encode
from tests.engine.kernels.drive import as_sources

NARROW = {F16: np.float16, BF16: ml_dtypes.bfloat16, F8_E4M3: ml_dtypes.float8_e4m3fn, F8_E5M2: ml_dtypes.float8_e5m2}
STEP = 97 if config.DISABLE_JIT else 1
"""Of the two-byte patterns, one in so many is tried where kernels run as plain Python."""


def _all_patterns(dtype: type) -> NDArray[np.unsignedinteger]:
    size = np.dtype(dtype).itemsize
    return np.arange(0, 256**size, STEP if size > 1 else 1, dtype=f"u{size}")


def _same(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Whether two arrays are equal bit for bit, any NaN being as good as another."""
    same = first.view(np.uint32) == second.view(np.uint32)
    return bool(np.all(same | (np.isnan(first) & np.isnan(second))))


@pytest.mark.parametrize("code", NARROW)
def test_every_pattern_is_decoded_exactly(code: int) -> None:
    """Decoding gives the value that the pattern stands for, subnormals and specials included."""
    raw = _all_patterns(NARROW[code])
    out = np.empty(raw.size, np.float32)
    decode(*as_sources([raw]), code, 0, raw.size, out)
    assert _same(raw.view(NARROW[code]).astype(np.float32), out)


@pytest.mark.parametrize("code", NARROW)
def test_encoding_rounds_to_nearest_even(code: int) -> None:
    """Values between two neighbours, halfway between them and next to halfway go where ml_dtypes puts them."""
    dtype = np.dtype(NARROW[code])
    with np.errstate(all="ignore"):
        exact = np.unique(_all_patterns(NARROW[code]).view(dtype).astype(np.float32))
        exact = exact[np.isfinite(exact)]
        half = ((exact[1:].astype(np.float64) + exact[:-1]) / 2).astype(np.float32)
        random = np.random.default_rng(code).integers(0, 2**32, 200_000 // STEP, dtype=np.uint32).view(np.float32)
        edges = np.array([0, -0.0, np.inf, -np.inf, np.nan, 448, 464, 464.1, 57344, 61440, 65504, 65520], np.float32)
        near = [np.nextafter(half, np.float32(side)) for side in (-np.inf, np.inf)]
        values = np.concatenate([exact, half, *near, random, edges])
        expected = values.astype(dtype)
        raw = np.empty(values.size * dtype.itemsize, np.uint8)
        overflowed = encode(values, code, 0, values.size, raw)
    assert _same(expected.astype(np.float32), raw.view(dtype).astype(np.float32))
    assert int(np.sum(np.isfinite(values) & ~np.isfinite(expected.astype(np.float32)))) == overflowed


@pytest.mark.parametrize("code", [F32, F64])
def test_wide_dtypes_pass_through(code: int) -> None:
    """Float32 is copied bit for bit; float64 is rounded to nearest even on the way in and exact on the way out."""
    dtype = np.float32 if code == F32 else np.float64
    values = np.random.default_rng(1).standard_normal(999).astype(dtype)
    out = np.empty(999, np.float32)
    decode(*as_sources([values]), code, 0, 999, out)
    assert _same(values.astype(np.float32), out)
    raw = np.empty(999 * np.dtype(dtype).itemsize, np.uint8)
    assert 0 == encode(out, code, 0, 999, raw)
    assert out.astype(dtype).tobytes() == raw.tobytes()


@pytest.mark.parametrize("code", range(6))
def test_ranges_are_respected(code: int) -> None:
    """Only the elements asked for are read, and only their bytes written."""
    dtype = np.dtype({**NARROW, F32: np.float32, F64: np.float64}[code])
    size = dtype.itemsize
    # Values that every dtype holds exactly, so that they come back bit for bit.
    (raw,) = as_sources([np.random.default_rng(2).integers(-8, 8, 50).astype(dtype)])
    whole, part = np.empty(50, np.float32), np.full(20, np.nan, np.float32)
    decode(raw, code, 0, 50, whole)
    decode(raw, code, 11, 21, part)
    assert _same(whole[11:21], part[:10])
    assert np.isnan(part[10:]).all()
    target = raw.copy()
    encode(part, code, 30, 40, target)
    assert raw[: 30 * size].tobytes() == target[: 30 * size].tobytes()
    assert raw[40 * size :].tobytes() == target[40 * size :].tobytes()
    assert raw[11 * size : 21 * size].tobytes() == target[30 * size : 40 * size].tobytes()
