"""Combinations of stored tensors, and their sums with a base model."""

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

from dovetail.engine.kernels.mixing import PART, mix_sources
from tests.engine.kernels.cases import JITTED, examples, make_values
from tests.engine.kernels.drive import DTYPES, as_sources, bits

LENGTHS = [0, 1, 7, 8, 9, PART - 1, PART, PART + 1, 2 * PART + 100] if JITTED else [0, 1, 9]


def combined(stored: Sequence[NDArray[Any]], coefficients: Sequence[float], adds: bool) -> NDArray[np.float32]:
    """Combine tensors: each element's sum in float64, in order, rounded to float32 once."""
    base, *others = values = [each.astype(np.float32) for each in stored]
    terms = [each - base for each in others] if adds else values
    change = np.zeros(len(base))
    for factor, term in zip(coefficients, terms, strict=True):
        change = change + np.float64(factor) * term.astype(np.float64)
    if not adds:
        return change.astype(np.float32)
    return np.where(change == 0, base, (base.astype(np.float64) + change).astype(np.float32))


def check(stored: list[NDArray[Any]], coefficients: list[float], code: int, adds: bool) -> None:
    """Combine stored tensors by the kernel, and compare it with the definition."""
    out, nonfinite = np.full(len(stored[0]), 1, DTYPES[code]), np.zeros(len(stored), np.int64)
    with np.errstate(all="ignore"):
        sources = as_sources(stored)
        overflowed = mix_sources(
            sources[:adds],
            sources[adds:],
            np.full(len(stored), code, np.int64),
            np.array(coefficients),
            out.view(np.uint8),
            code,
            nonfinite,
        )
        expected = combined(stored, coefficients, adds).astype(DTYPES[code])
        wrong = [np.sum(~np.isfinite(each.astype(np.float32))) for each in (*stored, out)]
    np.testing.assert_array_equal(bits(expected), bits(out))
    assert wrong == [*nonfinite.tolist(), overflowed]


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("code", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_and_dtype(length: int, code: int, adds: bool) -> None:
    """Wherever a tensor ends, each element and each count of values that are not finite is that of the definition."""
    random = np.random.default_rng((length, code))
    with np.errstate(all="ignore"):
        stored = [make_values(random, (length,), None, "special").astype(DTYPES[code]) for _ in range(3)]
    check(stored, [0.75, -0.3][: 3 - adds] + [0.1] * (not adds), code, adds)


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from([(2, False), (2, True), (3, False), (3, True), (4, True)]),
    length=st.integers(0, 60),
    style=st.sampled_from(["ties", "plain", "special"]),
)
def test_any_number_of_vectors(seed: int, kind: tuple[int, bool], length: int, style: str) -> None:
    """Sums go through the vectors in order; zero coefficients, and those that are not finite, act by the rules.

    Each number of vectors is compiled anew; these are the numbers that merges of two or three models need.
    """
    count, adds = kind
    random = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        stored = [make_values(random, (length,), None, style).astype(np.float32) for _ in range(count)]
    choices = [1.0, -0.7, 0.0, 1 / 3, 1e-300, *([np.nan, np.inf] if style == "special" else [])]
    check(stored, [float(random.choice(choices)) for _ in range(count - adds)], 0, adds)


def test_a_change_of_zero_leaves_the_base_alone() -> None:
    """The sign of a zero in the base is kept where nothing is added to it."""
    stored = np.array([[-0.0, 0.0, 1.0], [-0.0, 0.0, 1.0]], np.float32)
    out, nonfinite = np.full(3, 9, np.float32), np.zeros(2, np.int64)
    sources = as_sources(list(stored))
    mix_sources(sources[:1], sources[1:], np.zeros(2, np.int64), np.array([0.3]), out.view(np.uint8), 0, nonfinite)
    np.testing.assert_array_equal(bits(stored[0]), bits(out))


@pytest.mark.skipif(not JITTED or platform.machine() != "x86_64", reason="reads x86-64 machine code")
def test_combinations_are_packed_and_never_fused() -> None:
    """Products of coefficients are not exact, so that each is rounded before it is added."""
    code = numba.types.Array(numba.uint8, 1, "C", readonly=True)
    integers = numba.int64[::1]
    fresh = numba.njit(nogil=True)(mix_sources.py_func)
    arguments = (numba.types.Tuple(()), numba.types.UniTuple(code, 3), integers, numba.float64[::1])
    fresh.compile((*arguments, numba.uint8[::1], numba.int64, integers))
    (assembly,) = fresh.inspect_asm().values()
    assert "mulpd" in assembly
    assert "addpd" in assembly
    assert "fmadd" not in assembly
