"""Combinations that are made from stored bytes to stored bytes, where everything is bfloat16 or float32."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import BF16, F32
from dovetail.engine.kernels.mixing import PART, mix_sources
from dovetail.engine.kernels.stored_mix import mix_stored
from tests.engine.kernels.cases import JITTED, examples
from tests.engine.kernels.drive import DTYPES, as_sources
from tests.engine.kernels.test_combining import check

PARTS = 3 if JITTED else 1


def finite(seed: Sequence[int], count: int, code: int, scale: float = 1.0) -> list[NDArray[Any]]:
    """Make tensors of some whole parts and a few elements, with zeros of both signs and denormal numbers."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((count, PARTS * PART + 37)) * scale
    values *= random.choice([1.0, 1.0, 0.0, -0.0, 1e-40], values.shape)
    return [each.astype(DTYPES[code]) for each in values]


@settings(derandomize=True, deadline=None, max_examples=examples(40))
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 3),
    code=st.sampled_from([F32, BF16]),
    adds=st.booleans(),
    scale=st.sampled_from([1.0, 1e-38, 1e38]),
)
def test_whole_parts_have_the_bits_of_the_definition(
    seed: int, count: int, code: int, adds: bool, scale: float
) -> None:
    """Every element of finite tensors is the sum in float64, rounded to float32 and then to the dtype."""
    with np.errstate(all="ignore"):
        stored = finite((seed, count), count, code, scale)
    coefficients = np.random.default_rng(seed).choice([0.6, -0.7, 0.0, 1 / 3, 1e-300], count - adds)
    check(stored, coefficients.tolist(), code, adds)


@pytest.mark.parametrize("code", [F32, BF16])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3.3961e38])
@pytest.mark.parametrize("place", [0, 17, PART - 1])
def test_a_part_that_is_not_finite_is_counted(code: int, value: float, place: int) -> None:
    """NaN, infinity, and what rounds to infinity are counted by source and in the result, and stored as ever."""
    stored = finite((code, place), 2, code)
    stored[1][place] = value
    check(stored, [0.5, 1.0], code, adds=False)
    check(stored, [1.0], code, adds=True)


@pytest.mark.parametrize("code", [F32, BF16])
def test_results_that_round_to_infinity_are_counted(code: int) -> None:
    """Sums of finite values that are too large for the dtype are counted as overflow, and not against a source."""
    stored = finite((code,), 2, code)
    for each in stored:
        each[5] = each[PART - 3] = 2.5e38
    check(stored, [1.0, 1.0], code, adds=False)
    check(stored, [0.8, 0.5615], code, adds=False)  # bfloat16 alone may overflow


@pytest.mark.parametrize("code", [F32, BF16])
@pytest.mark.parametrize("distance", [1, 2, 6])
def test_bytes_may_begin_anywhere(code: int, distance: int) -> None:
    """Tensors of a file need not be aligned."""
    stored = finite((code, distance), 3, code)
    results = []
    for offset in (0, distance):
        moved = as_sources(
            [np.concatenate([np.zeros(offset, np.uint8), each.view(np.uint8)])[offset:] for each in stored]
        )
        out, nonfinite = np.zeros(moved[0].size, np.uint8), np.zeros(3, np.int64)
        mix_sources((), moved, np.full(3, code, np.int64), np.array([0.3, 0.4, 0.2]), out, code, nonfinite)
        results.append(out)
    np.testing.assert_array_equal(*results)


@pytest.mark.skipif(not JITTED, reason="without the compiler, other steps take the place of this kernel")
@pytest.mark.parametrize(("value", "expected"), [(1.0, True), (np.nan, False), (-np.inf, False)])
def test_the_kernel_says_whether_all_is_finite(value: float, expected: bool) -> None:
    """Its results may be used where they are finite; bfloat16 has a smaller largest number than float32."""
    for code in (F32, BF16):
        vectors = as_sources([np.full(64, each, np.float32).astype(DTYPES[code]) for each in (1.0, value)])
        found = mix_stored((), vectors, code, np.array([0.5, 0.5]), 32, 64, np.zeros(vectors[0].size, np.uint8))
        assert expected == found


@pytest.mark.skipif(not JITTED, reason="without the compiler, other steps take the place of this kernel")
@pytest.mark.parametrize(("code", "largest"), [(F32, 0x7F7FFFFF), (BF16, 0x7F7F7FFF)])
def test_the_largest_number_of_the_dtype_is_finite(code: int, largest: int) -> None:
    """The largest float32 value that does not round to infinity in the dtype is finite, and the next one is not."""
    value = np.uint32(largest).view(np.float32)
    vectors = as_sources([np.ones(32, DTYPES[code]), np.zeros(32, DTYPES[code])])
    for factor, expected in ((float(value), True), (float(value) * (1 + 2**-23), False)):
        found = mix_stored((), vectors, code, np.array([factor, 0.0]), 0, 32, np.zeros(vectors[0].size, np.uint8))
        assert expected == found


@pytest.mark.skipif(not JITTED or platform.machine() != "x86_64", reason="reads x86-64 machine code")
def test_runs_are_packed_and_never_fused() -> None:
    """Products of coefficients are not exact, so that each is rounded before it is added; nothing is called."""
    code = numba.types.Array(numba.uint8, 1, "C", readonly=True)
    fresh = numba.njit(nogil=True)(mix_stored.py_func)
    whole = numba.int64
    sources = numba.types.UniTuple(code, 1), numba.types.UniTuple(code, 2)
    fresh.compile((*sources, whole, numba.float64[::1], whole, whole, numba.uint8[::1]))
    (assembly,) = fresh.inspect_asm().values()
    assert "mulpd" in assembly
    assert "cvtps2pd" in assembly
    assert "fmadd" not in assembly
