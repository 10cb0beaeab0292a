"""Dot products of all pairs of several vectors, in the order of additions that belongs to each pair."""

from __future__ import annotations

import platform
import re
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import BF16, F32
from dovetail.engine.kernels.mixing import PART, block_grams, source_gram
from dovetail.engine.kernels.products import add_rows, gram
from dovetail.engine.kernels.sums import LANES, TILE
from tests.engine.kernels.cases import JITTED, examples, make_values
from tests.engine.kernels.drive import DTYPES, as_sources, bits
from tests.engine.kernels.test_sums import add_in_lanes

LENGTHS = [0, 1, 127, 129, PART, TILE - 1, TILE + PART + 130] if JITTED else [0, 1, 130]


def products_in_order(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Add up the products of all pairs, tile by tile, each tile in lanes."""
    wide = vectors.astype(np.float64)
    found = np.zeros((len(vectors), len(vectors)))
    with np.errstate(all="ignore"):
        for i, first in enumerate(wide):
            for j, second in enumerate(wide):
                for start in range(0, wide.shape[1], TILE):
                    found[i, j] += add_in_lanes((first * second)[start : start + TILE])
    return found


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("length", LENGTHS)
def test_every_pair_is_added_up_in_the_same_order(count: int, length: int) -> None:
    """However many vectors are multiplied at once, each product has the bits of one pair alone."""
    vectors = np.random.default_rng((count, length)).standard_normal((count, length + 5)).astype(np.float32)
    out = np.full((count, count), 9.0)
    gram(vectors, length, out)
    np.testing.assert_array_equal(products_in_order(vectors[:, :length]), out)


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5), length=st.integers(0, 300))
def test_special_values_count_as_in_one_pair(seed: int, count: int, length: int) -> None:
    """NaN and infinity reach the products that they take part in, and denormal numbers and zeros keep their bits."""
    random = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        vectors = make_values(random, (count, length), None, "special").astype(np.float32)
        out = np.empty((count, count))
        gram(vectors, length, out)
    np.testing.assert_array_equal(bits(products_in_order(vectors)), bits(out))


@pytest.mark.parametrize("code", range(6))
@pytest.mark.parametrize("relative", [False, True])
def test_stored_vectors_have_the_products_of_decoded_ones(code: int, relative: bool) -> None:
    """A run from the middle of stored tensors, of weights or of task vectors, gives the products of its elements."""
    random = np.random.default_rng(code)
    start, length = 77, 2 * TILE + PART + 200 if JITTED else 200
    stored = [random.standard_normal(start + length + 9).astype(DTYPES[code]) for _ in range(3)]
    values = np.array([each[start : start + length].astype(np.float32) for each in stored])
    vectors = values[1:] - values[0] if relative else values
    out = np.full((len(vectors),) * 2, 9.0)
    sources = as_sources(stored)
    source_gram(sources[:relative], sources[relative:], np.full(3, code, np.int64), start, start + length, out)
    np.testing.assert_array_equal(products_in_order(vectors), out)


@pytest.mark.parametrize("code", [F32, BF16])
@pytest.mark.parametrize(("count", "relative"), [(2, True), (3, False)])
def test_stored_vectors_at_any_place(count: int, relative: bool, code: int) -> None:
    """Vectors that are multiplied as they are stored, at any place in memory, have the products of decoded ones."""
    random = np.random.default_rng((count, code))
    start, length = 3, TILE + 2 * 128 + 50 if JITTED else 150
    values = random.standard_normal((count + relative, start + length)).astype(DTYPES[code])
    sources = as_sources([np.concatenate([np.zeros(6, np.uint8), each.view(np.uint8)])[6:] for each in values])
    wide = values[:, start:].astype(np.float32)
    vectors = wide[1:] - wide[0] if relative else wide
    out = np.full((count, count), 9.0)
    codes = np.full(len(sources), code, np.int64)
    source_gram(sources[:relative], sources[relative:], codes, start, start + length, out)
    np.testing.assert_array_equal(products_in_order(vectors), out)


@settings(derandomize=True, deadline=None, max_examples=examples(40))
@given(seed=st.integers(0, 2**32 - 1), code=st.sampled_from([F32, BF16]), relative=st.booleans())
def test_special_values_count_as_they_are_stored(seed: int, code: int, relative: bool) -> None:
    """NaN, infinity, denormal numbers and zeros act as in decoded vectors."""
    random = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        values = make_values(random, (2 + relative, 300), None, "special").astype(DTYPES[code])
        wide = values.astype(np.float32)
        vectors = wide[1:] - wide[0] if relative else wide
        sources, out = as_sources(list(values)), np.empty((2, 2))
        source_gram(sources[:relative], sources[relative:], np.full(2 + relative, code, np.int64), 0, 300, out)
    np.testing.assert_array_equal(products_in_order(vectors), out)


def test_several_runs_are_as_each_by_itself() -> None:
    """Runs that are given together, of any lengths, have the products of each; none is a result without matrices."""
    random = np.random.default_rng(5)
    sources = as_sources([random.standard_normal(900).astype(np.float32) for _ in range(3)])
    bounds, codes = np.array([[0, 300], [300, 301], [301, 900]]), np.zeros(3, np.int64)
    out = np.full((3, 2, 2), 9.0)
    block_grams(sources[:1], sources[1:], codes, bounds, out)
    for (start, stop), found in zip(bounds, out, strict=True):
        alone = np.empty((2, 2))
        source_gram(sources[:1], sources[1:], codes, start, stop, alone)
        np.testing.assert_array_equal(bits(alone), bits(found))
    block_grams(sources[:1], sources[1:], codes, bounds[:0], out[:0])


@pytest.mark.skipif(not JITTED or platform.machine() != "x86_64", reason="reads x86-64 machine code")
def test_products_are_vector_code() -> None:
    """Elements are widened and multiplied in packed instructions, in loops that call nothing."""
    fresh = numba.njit(nogil=True)(add_rows.py_func)
    fresh.compile((numba.float32[:, ::1], numba.float64[:, ::1]))
    (assembly,) = fresh.inspect_asm().values()
    assert len(re.findall(r"\bv?cvtps2pd\b", assembly)) > 0
    assert len(re.findall(r"\bv?(mulpd|fmadd\w+pd)\b", assembly)) > 0
    assert "fmadd213sd" not in assembly
    assert "@fma" not in assembly


def test_lanes_are_added_to() -> None:
    """Rows of a vector may come in any number of parts: the lanes keep what was added before."""
    vectors = np.random.default_rng(3).standard_normal((2, 512)).astype(np.float32)
    whole, parts = np.zeros((3, LANES)), np.zeros((3, LANES))
    add_rows(vectors, whole)
    for start in range(0, 512, 128):
        add_rows(vectors[:, start : start + 128], parts)
    np.testing.assert_array_equal(whole, parts)


def test_a_part_of_a_row_stays_out_of_the_lanes() -> None:
    """Elements that do not fill a row of 128 are left to the end."""
    values: dict[str, Any] = {"short": np.ones((1, 127), np.float32), "long": np.ones((1, 255), np.float32)}
    lanes = {name: np.zeros((1, LANES)) for name in values}
    for name, vectors in values.items():
        add_rows(vectors, lanes[name])
    assert {"short": 0.0, "long": 128.0} == {name: each.sum() for name, each in lanes.items()}
