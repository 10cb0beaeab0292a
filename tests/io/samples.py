"""Tensors of every dtype and of awkward shapes, and files of them written by the official library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize
from safetensors.numpy import save_file

from dovetail.io.dtypes import DTYPES, to_numpy

Tensors = Mapping[str, NDArray[Any]]

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (0,), (3, 5), (4, 0, 2), (2, 3, 5), (2, 1, 3, 2))


def random_array(seed: int, dtype_name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Make an array of random bits; for bools, of zeros and ones."""
    dtype = to_numpy(DTYPES[dtype_name])
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, np.uint8)
    if dtype_name == "BOOL":
        raw &= 1
    return raw.view(dtype).reshape(shape)


def every_kind() -> dict[str, NDArray[Any]]:
    """Make a tensor of each dtype in each of `SHAPES`, named like ``F32.2x3x5``."""
    return {
        f"{name}.{'x'.join(map(str, shape)) or 'scalar'}": random_array(seed, name, shape)
        for name in DTYPES
        for seed, shape in enumerate(SHAPES)
    }


def some_tensors() -> dict[str, NDArray[Any]]:
    """Make a few tensors: one whole chunk, a matrix, a scalar and an empty one."""
    return {
        "foo": random_array(1, "U8", (4,)),
        "model.layers.0.weight": random_array(2, "BF16", (7, 5)),
        "model.layers.0.bias": random_array(3, "F32", ()),
        "empty": random_array(4, "F32", (0, 3)),
    }


def write_file(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file(dict(tensors), path, metadata)
    return path


def write_shards(folder: Path, *shards: Tensors) -> Path:
    """Write a sharded checkpoint with its index."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, tensors)
        weight_map |= dict.fromkeys(tensors, name)
    write_index(folder, weight_map)
    return folder


def write_index(folder: Path, weight_map: Mapping[str, Any]) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return path


def read_officially(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Read dtype name, shape and bytes of each tensor with the official library."""
    return {
        name: (fields["dtype"], tuple(fields["shape"]), bytes(fields["data"]))
        for name, fields in deserialize(path.read_bytes())
    }
