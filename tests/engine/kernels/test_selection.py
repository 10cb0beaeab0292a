"""Selection in vector code: n of m by magnitude, for every block length, on any vector width."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import config
from numpy.typing import NDArray

from dovetail.engine.kernels.exclusive import ALIGNMENT_BYTES, LARGEST_TILE, make_scratch, scratch_bytes, tile_elements
from dovetail.engine.kernels.network import exchanges, merges
from dovetail.engine.kernels.selection import select

SHORT, MEDIUM = [1, 2, 3, 4, 5, 7, 8, 12, 16], [17, 24, 31, 32, 33, 48, 50, 64, 65, 80, 96, 100, 127, 128]
LENGTHS = [*SHORT, *MEDIUM, 129, 160, 255, 256, 500, 512, 1000, 1024, 2048, 5000]


def naive_selection(magnitudes: NDArray[np.uint32], n: int, m: int) -> NDArray[np.bool_]:
    """Select block by block by sorting: largest first, lower index first among equals, zeros never."""
    kept = np.zeros(magnitudes.size, np.bool_)
    for start in range(0, magnitudes.size, m):
        block = magnitudes[start : start + m].astype(np.int64)
        order = sorted(range(block.size), key=lambda i: (-block[i], i))[:n]
        kept[[start + i for i in order if block[i]]] = True
    return kept


def selection(bits: NDArray[np.uint32], free: NDArray[np.bool_], n: int, m: int) -> NDArray[np.bool_]:
    """Select by the kernel from the free elements of float32 values given as bits."""
    count = bits.size
    floats, words, memory, _ = make_scratch(max(count, 1), (m,))
    tau, open_, marks = floats[0], words[0], words[1]
    # What lies beyond the elements in question must not count.
    tau.view(np.uint32)[:] = 0x7F800000
    open_[:] = 0xFFFF
    tau.view(np.uint32)[:count] = bits
    open_[:count] = np.where(free, 0xFFFF, 0)
    select(tau, open_, marks, count, m, n, memory, np.zeros(100, np.uint8))
    assert bits.tobytes() == tau.view(np.uint32)[:count].tobytes()
    assert set(marks[:count].tolist()) <= {0, 0xFFFF}
    return np.asarray(marks[:count] == 0xFFFF)


def assert_selects(bits: NDArray[np.uint32], free: NDArray[np.bool_], n: int, m: int) -> None:
    """Compare with sorting."""
    magnitudes = np.where(free, bits & np.uint32(0x7FFFFFFF), np.uint32(0))
    assert np.array_equal(naive_selection(magnitudes, n, m), selection(bits, free, n, m))


@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("values", ["wide", "few", "low", "level", "equal", "sparse", "zero"])
def test_every_block_length_selects_the_strongest(m: int, values: str) -> None:
    """The marks are those of a sort, whatever the values: random, much repeated, tiny, all equal, mostly zero."""
    random = np.random.default_rng(m)
    # Short blocks are selected by 32 at a time, long ones one by one.
    size = min(35 * m + m // 2 + 1, 400 if config.DISABLE_JIT else 12_000)
    magnitudes = {
        "wide": random.integers(0, 2**31, size),
        "few": random.integers(0, 4, size) << random.integers(14, 18, size),
        "low": random.integers(0, 2**17, size),
        "level": 0x3F80 << 16 | random.integers(0, 2**16, size),
        "equal": np.full(size, 0x3F800000),
        "sparse": random.integers(1, 2**31, size) * (random.random(size) < 0.05),
        "zero": np.zeros(size, np.int64),
    }[values].astype(np.uint32)
    signs = random.integers(0, 2, size).astype(np.uint32) << np.uint32(31)
    for n in sorted({0, 1, m // 4, m // 2, m - 1, m}):
        assert_selects(magnitudes | signs, random.random(size) < 0.8, n, m)


@settings(deadline=None, derandomize=True, max_examples=20 if config.DISABLE_JIT else 300)
@given(
    (st.integers(1, 70) | st.integers(60, 270)).flatmap(
        lambda m: st.tuples(
            st.just(m),
            st.integers(0, m),
            st.lists(
                st.tuples(
                    st.sampled_from(
                        [0, 1, 2, 0xFFFF, 0x10000, 0x10001, 0x7F7FFFFF, 0x7F800000, 0x7FC00001, 0x7FFFFFFF]
                    ),
                    st.booleans(),
                ),
                max_size=3 * m,
            ),
        )
    )
)
def test_ties_and_boundaries_of_the_planes(case: tuple[int, int, list[tuple[int, bool]]]) -> None:
    """Magnitudes equal in one half, NaN and infinity, and lengths that fill no block are selected as by a sort."""
    m, n, values = case
    bits = np.array([value for value, _ in values], np.uint32)
    assert_selects(bits, np.array([free for _, free in values], np.bool_), n, m)


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16])
def test_networks_sort(rows: int) -> None:
    """A network sorts every sequence of zeros and ones, and hence every sequence."""
    table = np.array([[number >> row & 1 for number in range(1 << rows)] for row in range(rows)])
    for i, j in exchanges(0, rows):
        table[[i, j]] = np.maximum(table[i], table[j]), np.minimum(table[i], table[j])
    assert bool(np.all(table[:-1] >= table[1:]))


@pytest.mark.parametrize("rows", [32, 64])
def test_networks_merge(rows: int) -> None:
    """A network merges all sorted halves of zeros and ones, and hence all sorted halves."""
    half = rows // 2
    halves = np.tri(half + 1, half, -1, np.int64).T
    table = np.array([[*halves[:, one], *halves[:, two]] for one in range(half + 1) for two in range(half + 1)]).T
    for i, j in merges(0, rows, 1):
        table[[i, j]] = np.maximum(table[i], table[j]), np.minimum(table[i], table[j])
    assert bool(np.all(table[:-1] >= table[1:]))


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=5))
def test_tiles_hold_whole_blocks(m: list[int]) -> None:
    """A tile is a bounded multiple of every block length, or there is none; scratch is as said, and aligned."""
    tile = tile_elements(tuple(m))
    if tile is None:
        return
    assert 0 < tile <= LARGEST_TILE
    assert [0] * len(m) == [tile % each for each in m]
    floats, words, memory, _ = make_scratch(tile, m)
    arrays = [array for array in (*floats, *words, *memory) if array.size]
    assert [0] * len(arrays) == [array.ctypes.data % ALIGNMENT_BYTES for array in arrays]
    allocations = [floats, words, *memory]
    assert sum(array.nbytes + ALIGNMENT_BYTES for array in allocations) == scratch_bytes(tile, m)


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="there is no machine code without the compiler")
def test_narrower_vectors_give_the_same_marks() -> None:
    """The code compiled for the machines with the narrowest vectors, of 128 bits, selects the same elements."""
    script = """
import numpy as np
from tests.engine.kernels.test_selection import assert_selects
random = np.random.default_rng(0)
for n, m in ((2, 4), (3, 7), (4, 16), (3, 32), (5, 24), (25, 100), (64, 256), (9, 300)):
    bits = (random.integers(0, 4, 9000) << random.integers(10, 28, 9000)).astype(np.uint32)
    assert_selects(bits, random.random(9000) < 0.9, n, m)
"""
    environment = {**os.environ, "NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
