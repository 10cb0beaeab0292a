"""Arrays stored in several ways, with the sources that read them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.io import read_checkpoint
from dovetail.io.files.mapping import MappedSource
from dovetail.io.files.strided import StridedSource
from dovetail.io.source import Source
from tests.io.zarr_files import write_arrays


def store_mapped(path: Path, array: NDArray[Any], offset_bytes: int = 8) -> MappedSource:
    """Write an array's elements in order, after some other bytes."""
    path.write_bytes(bytes(offset_bytes) + array.tobytes() + b"behind")
    status = path.stat()
    return MappedSource(str(path), offset_bytes, array.size, array.itemsize, status.st_size, status.st_mtime_ns)


def store_transposed(path: Path, matrix: NDArray[Any]) -> StridedSource:
    """Write a matrix column by column."""
    path.write_bytes(b"before" + matrix.T.tobytes())
    status = path.stat()
    strides = (1, matrix.shape[0])
    return StridedSource(str(path), 6, matrix.shape, strides, matrix.itemsize, status.st_size, status.st_mtime_ns)


def store_zarr(folder: Path, matrix: NDArray[Any], chunks: tuple[int, int] = (7, 5), **options: Any) -> Source:
    """Write a matrix as a Zarr array called ``w``, by zarr-python."""
    write_arrays(folder, {"w": matrix}, chunks=lambda _: chunks, **options)
    return read_checkpoint(folder).tensors["w"].source


def touch(path: Path) -> None:
    """Give a file, or every file in a folder, a later time of change."""
    later = time.time_ns() + 10**10
    for file in path.rglob("*") if path.is_dir() else (path,):
        os.utime(file, ns=(later, later))


def random_bytes(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> NDArray[Any]:
    """Make an array of random bits."""
    stored = np.dtype(dtype)
    count = int(np.prod(shape)) * stored.itemsize
    return np.random.default_rng(seed).integers(0, 256, count, np.uint8).view(stored).reshape(shape)
