"""Chunk grids: every chunk one run of elements, and together every element once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.io.zarr.chunking import ChunkGrid, chunk_grid

SHAPES = st.lists(st.integers(0, 6), max_size=4).map(tuple)


@given(SHAPES, st.sampled_from([1, 2, 4, 8]), st.integers(1, 300))
def test_chunks_are_what_zarr_means_by_them(shape: tuple[int, ...], itemsize: int, chunk_bytes: int) -> None:
    """Each chunk's element range is the run of elements that Zarr puts there, padding after it; all are covered."""
    grid = chunk_grid(shape, itemsize, chunk_bytes)
    elements = np.arange(math.prod(shape)).reshape(shape)
    covered = np.zeros(math.prod(shape), int)
    assert len(shape) == len(grid.chunk_shape)
    assert all(size >= 1 for size in grid.chunk_shape)
    assert grid.chunk_length * itemsize <= max(chunk_bytes, itemsize)
    for position in np.ndindex(*grid.counts):
        start, stop = grid.element_range(position)
        box = tuple(slice(i * size, (i + 1) * size) for i, size in zip(position, grid.chunk_shape, strict=True))
        padded = np.full(grid.chunk_shape, -1)
        padded[tuple(map(slice, elements[box].shape))] = elements[box]
        expected = np.full(grid.chunk_length, -1)
        expected[: stop - start] = np.arange(start, stop)
        np.testing.assert_array_equal(expected, padded.ravel())
        covered[start:stop] += 1
        assert position == grid.parse_key("/".join(("c", *map(str, position))))
    assert (covered == 1).all()


@pytest.mark.parametrize(
    ("shape", "chunk_shape"),
    [
        ((), ()),
        ((10_000_000,), (2_097_152,)),
        ((100, 1000), (100, 1000)),
        ((50_000, 4096), (512, 4096)),
        ((8, 14336, 4096), (1, 512, 4096)),
        ((3, 5_000_000), (1, 2_097_152)),
        ((0, 4096), (1, 4096)),
        ((4096, 0), (4096, 1)),
        ((0,), (1,)),
    ],
)
def test_default_chunks_are_about_4_mib(shape: tuple[int, ...], chunk_shape: tuple[int, ...]) -> None:
    """Two-byte tensors get row ranges of at most 4 MiB; dimensions of size 0 get chunks of size 1."""
    assert chunk_shape == chunk_grid(shape, 2, 4 * 2**20).chunk_shape


@pytest.mark.parametrize(
    "key",
    [
        *("", "c", "c/", "c/0", "c/0/0/0", "c/0/2", "c/3/0", "c/-1/0", "c/00/0", "c/0/0/", "c/ 0/0", "c/+1/0"),
        *("c/0.0", "d/0/0", "c/\u0661/0", "c/1_0/0", f"c/{10**30}/0", "C/0/0", "/c/0/0"),
    ],
)
def test_other_keys_are_no_chunks(key: str) -> None:
    """Only the one canonical key of a chunk names it."""
    assert ChunkGrid((5, 4), (2, 3)).parse_key(key) is None


def test_keys_are_listed() -> None:
    """All keys are listed in order, and folder by folder."""
    grid = ChunkGrid((3, 4), (2, 3))
    assert ["c/0/0", "c/0/1", "c/1/0", "c/1/1"] == list(grid.keys())
    assert ["0", "1"] == list(grid.children("c")) == list(grid.children("c/1"))
    assert [] == list(grid.children("c/2")) == list(grid.children("c/0/0")) == list(grid.children("d"))
    assert ["c"] == list(ChunkGrid((), ()).keys())
    assert [] == list(ChunkGrid((), ()).children("c"))
    assert [] == list(ChunkGrid((0, 4), (1, 4)).keys()) == list(ChunkGrid((4, 0), (4, 1)).children("c"))
