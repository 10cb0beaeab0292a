"""Fused weighted sums: the oracle across tile edges, and the machine code."""

from __future__ import annotations

import platform
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine.kernels.linear import TILE, weighted_sum, weighted_task_vectors
from tests import naive
from tests.engine.kernels.cases import JITTED, make_values
from tests.engine.kernels.drive import DTYPES, as_sources, bits

LENGTHS = [0, 1, TILE - 1, TILE, TILE + 1, 2 * TILE + 100] if JITTED else [0, 1, 130]


def make_sources(length: int, count: int, code: int) -> list[NDArray[Any]]:
    """Make tensors of one dtype, NaN and infinity among them."""
    random = np.random.default_rng((length, count, code))
    with np.errstate(all="ignore"):
        return [make_values(random, (length,), None, "special").astype(DTYPES[code]) for _ in range(count)]


@pytest.mark.parametrize("code", range(6))
@pytest.mark.parametrize("length", LENGTHS)
def test_weighted_sums(length: int, code: int) -> None:
    """Every length and dtype gives the oracle's bits and counts."""
    models = make_sources(length, 2, code)
    weights = np.array([0.75, -0.3], np.float32)
    divisor = np.float32(weights[0] + weights[1])
    out, nonfinite = np.full(length, 1, DTYPES[code]), np.zeros(2, np.int64)
    codes = np.full(2, code, np.int64)
    with np.errstate(all="ignore"):
        weighted_sum(as_sources(models), codes, weights, divisor, out.view(np.uint8), code, nonfinite)
        counts = [np.sum(~np.isfinite(each.astype(np.float32))) for each in models]
    expected = naive.linear(models, [0.75, -0.3], DTYPES[code])
    np.testing.assert_array_equal(bits(expected.output), bits(out))
    assert counts == nonfinite.tolist()


@pytest.mark.parametrize("code", range(6))
@pytest.mark.parametrize("length", LENGTHS)
def test_weighted_task_vectors(length: int, code: int) -> None:
    """Every length and dtype gives the oracle's bits and counts."""
    sources = make_sources(length, 3, code)
    weights = np.array([0.75, -0.3], np.float32)
    divisor = np.float32(weights[0] + weights[1])
    out, nonfinite = np.full(length, 1, DTYPES[code]), np.zeros(3, np.int64)
    pairs, squares = np.zeros((2, 2), np.int64), np.zeros(3)
    codes, scale = np.full(3, code, np.int64), (divisor, np.float32(1.5))
    with np.errstate(all="ignore"):
        weighted_task_vectors(
            as_sources(sources), codes, weights, scale, out.view(np.uint8), code, (nonfinite, pairs, squares)
        )
        counts = [np.sum(~np.isfinite(each.astype(np.float32))) for each in sources]
    expected = naive.task_arithmetic(sources[0], sources[1:], [0.75, -0.3], DTYPES[code], 1.5, normalize=True)
    np.testing.assert_array_equal(bits(expected.output), bits(out))
    assert counts == nonfinite.tolist()
    masks = np.array(expected.masks, np.int64)
    np.testing.assert_array_equal(masks @ masks.T, pairs)


@pytest.mark.skipif(not JITTED or platform.machine() != "x86_64", reason="reads x86-64 machine code")
def test_machine_code_is_packed_and_never_fused() -> None:
    """The loops use vector instructions, and no product is added without being rounded first."""
    code, floats = numba.types.Array(numba.uint8, 1, "C", readonly=True), numba.float32[::1]
    integers, sources = numba.int64[::1], numba.types.UniTuple(code, 2)
    fresh = numba.njit(nogil=True)(weighted_task_vectors.py_func)
    scale = numba.types.UniTuple(numba.float32, 2)
    fresh.compile(
        (
            sources,
            integers,
            floats,
            scale,
            numba.uint8[::1],
            numba.int64,
            numba.types.Tuple((integers, numba.int64[:, ::1], numba.float64[::1])),
        )
    )
    (assembly,) = fresh.inspect_asm().values()
    assert "mulps" in assembly
    assert "subps" in assembly
    assert "fmadd" not in assembly
    assert "fmsub" not in assembly
    assert "fnmadd" not in assembly
