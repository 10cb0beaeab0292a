"""Zarr checkpoints for tests, written by our sink, by zarr-python, and by tensorstore."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
import zarr
from numpy.typing import NDArray

import dovetail.io.zarr.dtypes  # noqa: F401 - registers the data types
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.output import ZarrFormat
from dovetail.io.zarr.layout import array_grid, plan_zarr


def write_group(
    folder: Path, checkpoint: Checkpoint, codec: str = "zstd", *, target: int = 1 << 16, sharded: bool = False
) -> Path:
    """Write a checkpoint through our sink, object by object, in reverse order."""
    folder.mkdir(parents=True, exist_ok=True)
    infos = list(checkpoint.tensors.values())
    grids = [array_grid(info.shape, info.dtype.itemsize, target, sharded=sharded) for info in infos]
    placed = [(info.name, info.dtype, info.shape, grid) for info, grid in zip(infos, grids, strict=True)]
    layout = plan_zarr(placed, codec, checkpoint.metadata or None)
    sink = ZarrFormat().create_sink(layout, folder)
    for index in reversed(range(len(infos))):
        info, grid = infos[index], layout.tensors[index].objects
        ranges = [grid.element_range(position) for position in np.ndindex(grid.counts)] if info.length else []
        for start, stop in reversed(ranges):
            sink.slot(index).write(start, info.source.read(start, stop))
        sink.commit([(index, start, stop) for start, stop in ranges[:1]])
    sink.close()
    return folder


def write_arrays(folder: Path, tensors: Mapping[str, NDArray[Any]], **options: Any) -> Path:
    """Write arrays by zarr-python, options as for `zarr.create_array`; `chunks` may be a function of the shape."""
    chunks = options.pop("chunks", None)
    for name, tensor in tensors.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = zarr.create_array(
                str(folder / name),
                shape=tensor.shape,
                chunks=chunks(tensor.shape) if chunks else "auto",
                dtype=tensor.dtype,
                **options,
            )
            array[...] = tensor
    return folder


def write_t5x(
    folder: Path, tensors: Mapping[str, NDArray[Any]], rows: int = 40, columns: int = 24, codec: str = "gzip"
) -> Path:
    """Write arrays as T5X does: Zarr v2 by tensorstore, one folder an array, no group, chunks by partitions."""
    for name, tensor in tensors.items():
        chunks = [min(limit, size) for limit, size in zip((rows, columns), tensor.shape, strict=False)]
        metadata = {
            "dtype": "bfloat16" if tensor.dtype.name == "bfloat16" else tensor.dtype.str,
            "shape": list(tensor.shape),
            "chunks": chunks + list(tensor.shape[2:]),
            "compressor": {"id": codec, "cname": "lz4"} if codec == "blosc" else {"id": codec, "level": 1},
        }
        place = {"driver": "file", "path": str(folder / name)}
        store = tensorstore.open({"driver": "zarr", "kvstore": place, "metadata": metadata}, create=True).result()
        store.write(tensor).result()
    return folder


def read_bytes(checkpoint: Checkpoint) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Read dtype name, shape and bytes of each tensor through its source."""
    return {
        name: (info.dtype.name, info.shape, info.source.read(0, info.length).tobytes())
        for name, info in checkpoint.tensors.items()
    }
