"""Selection in vector code: n of m by magnitude, for every block length, on any vector width."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numba.core import config
from numpy.typing import NDArray

from dovetail.engine.kernels.exclusive import LARGEST_TILE, make_scratch, padded, scratch_bytes, select, tile_elements
from dovetail.engine.kernels.vectors import LANES, transpose_lanes

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 31, 32, 33, 64, 96, 100, 128, 255, 256, 512, 1000, 1024, 2048]


@njit
def _transpose(source, start, stride, target, target_start, target_stride):  # type: ignore[no-untyped-def]
    """Make the intrinsic callable from Python."""
    transpose_lanes(source, start, stride, target, target_start, target_stride)


def naive_selection(magnitudes: NDArray[np.uint32], n: int, m: int) -> NDArray[np.bool_]:
    """Select block by block by sorting: largest first, lower index first among equals, zeros never."""
    kept = np.zeros(magnitudes.size, np.bool_)
    for start in range(0, magnitudes.size, m):
        block = magnitudes[start : start + m].astype(np.int64)
        order = sorted(range(block.size), key=lambda i: (-block[i], i))[:n]
        kept[[start + i for i in order if block[i]]] = True
    return kept


def selection(magnitudes: NDArray[np.uint32], n: int, m: int) -> NDArray[np.bool_]:
    """Select by the kernel."""
    tile = max(magnitudes.size, 1)
    _, words, rows = make_scratch(tile, [m])
    high, low = words[0], words[1]
    high[:tile] = 0
    high[: magnitudes.size] = magnitudes >> 16
    low[: magnitudes.size] = magnitudes & 0xFFFF
    select(high, low, magnitudes.size, n, m, rows)
    marks = high[: magnitudes.size]
    assert set(marks.tolist()) <= {0, 0xFFFF}
    return marks == 0xFFFF


@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("values", ["wide", "few", "low", "equal", "sparse"])
def test_every_block_length_selects_the_strongest(m: int, values: str) -> None:
    """The marks are those of a sort, whatever the values: random, much repeated, tiny, all equal, mostly zero."""
    random = np.random.default_rng(m)
    size = min(3 * LANES * m + m // 2 + 1, 700 if config.DISABLE_JIT else 40_000)
    magnitudes = {
        "wide": random.integers(0, 2**31, size),
        "few": random.integers(0, 4, size) << random.integers(14, 18, size),
        "low": random.integers(0, 2**17, size),
        "equal": np.full(size, 0x3F800000),
        "sparse": random.integers(1, 2**31, size) * (random.random(size) < 0.05),
    }[values].astype(np.uint32)
    for n in sorted({0, 1, m // 4, m // 2, m - 1, m}):
        assert np.array_equal(naive_selection(magnitudes, n, m), selection(magnitudes, n, m))


@settings(deadline=None, derandomize=True, max_examples=20 if config.DISABLE_JIT else 200)
@given(
    st.integers(1, 70).flatmap(
        lambda m: st.tuples(
            st.just(m),
            st.integers(0, m),
            st.lists(st.sampled_from([0, 1, 2, 0xFFFF, 0x10000, 0x10001, 0x7F800000, 0x7FC00001]), max_size=5 * m),
        )
    )
)
def test_ties_and_boundaries_of_the_planes(case: tuple[int, int, list[int]]) -> None:
    """Magnitudes equal in one half, NaN and infinity, and lengths that fill no block are selected as by a sort."""
    m, n, values = case
    magnitudes = np.array(values, np.uint32)
    assert np.array_equal(naive_selection(magnitudes, n, m), selection(magnitudes, n, m))


def test_squares_are_transposed() -> None:
    """Rows become columns at any place and stride, and nothing else is touched."""
    source = np.random.default_rng(0).integers(0, 2**16, 5000).astype(np.uint16)
    target = np.zeros(5000, np.uint16)
    _transpose(source, 7, 40, target, 3, 50)
    expected = np.zeros(5000, np.uint16)
    for row in range(LANES):
        for lane in range(LANES):
            expected[3 + lane * 50 + row] = source[7 + row * 40 + lane]
    assert np.array_equal(expected, target)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=5))
def test_tiles_hold_whole_blocks(m: list[int]) -> None:
    """A tile is a bounded multiple of every block length, or there is none, and scratch is what it says."""
    tile = tile_elements(tuple(m))
    if tile is None:
        return
    assert 0 < tile <= LARGEST_TILE
    assert [0] * len(m) == [tile % each for each in m]
    assert sum(array.nbytes for array in make_scratch(tile, m)) == scratch_bytes(tile, m)


@pytest.mark.parametrize("m", LENGTHS)
def test_padding_fits_squares(m: int) -> None:
    """A padded block fits into rows of squares, or squares into it."""
    length = padded(m)
    assert length >= m
    assert 0 in (LANES % length, length % LANES)


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="there is no machine code without the compiler")
@pytest.mark.parametrize("features", ["", "+avx2"], ids=["128-bit", "256-bit"])
def test_narrower_vectors_give_the_same_marks(features: str) -> None:
    """The code compiled for machines with narrower vectors selects the same elements."""
    script = """
import numpy as np
from tests.kernels.test_exclusive import naive_selection, selection
random = np.random.default_rng(0)
for n, m in ((2, 4), (3, 32), (5, 24), (64, 256)):
    magnitudes = (random.integers(0, 4, 9000) << random.integers(10, 28, 9000)).astype(np.uint32)
    assert np.array_equal(naive_selection(magnitudes, n, m), selection(magnitudes, n, m))
"""
    environment = {**os.environ, "NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": features}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
