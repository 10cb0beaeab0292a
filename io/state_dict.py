"""Loading a checkpoint of any format as torch tensors: the function `dovetail.load_state_dict`."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.io.arrays import to_torch
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.errors import ChangedFileError
from dovetail.io.files.smallfile import open_descriptor
from dovetail.io.source import MappedBytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEP_BYTES: Final = 64 * 2**20
"""Bytes of a tensor that are read at a time."""

_NO_RESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""Lets maps be larger than memory: only pages that are written to need any."""


def load_tensors(checkpoint: Checkpoint, *, copy: bool = False) -> dict[str, Any]:
    """Give every tensor of an open checkpoint as a torch tensor; see `dovetail.io.load_state_dict`."""
    files: dict[str, NDArray[np.uint8]] = {}
    found = {name: _load(info, files, copy=copy) for name, info in checkpoint.tensors.items()}
    checkpoint.check_unchanged()
    return found


def _load(info: TensorInfo, files: dict[str, NDArray[np.uint8]], *, copy: bool) -> Any:
    """Map one tensor where its elements lie in a file as they are, else read it."""
    place = None if copy else info.source.mapped_bytes(0, info.length)
    if place is None or place.begin % info.dtype.itemsize or place.begin == place.end:
        return to_torch(_read(info), info.dtype, info.shape)
    if place.path not in files:
        files[place.path] = _map(place)
    return to_torch(files[place.path][place.begin : place.end], info.dtype, info.shape)


def _read(info: TensorInfo) -> NDArray[np.uint8]:
    """Read a whole tensor into new memory, without a second copy of it."""
    source, size = info.source, info.dtype.itemsize
    data = np.empty(info.length * size, np.uint8)
    step = max(1, _STEP_BYTES // size)
    for start in range(0, info.length, step):
        stop = min(info.length, start + step)
        source.populate(start, stop)  # raises an error for pages that cannot be read, which else kill the process
        data[start * size : stop * size] = source.read(start, stop)
        source.release(start, stop)
    return data


def _map(place: MappedBytes) -> NDArray[np.uint8]:
    """Map a file so that its pages can be written to in memory, and never in the file."""
    descriptor = open_descriptor(place.path, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (place.file_size_bytes, place.file_mtime_ns):
            raise ChangedFileError(
                f"{place.path} changed since the checkpoint was opened",
                "the file that was opened",
                "leave checkpoints alone while they are read, and run again",
            )
        mapped = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(descriptor)
    return np.frombuffer(mapped, np.uint8)
