"""Dovetail: checkpoints in and out, as chunked Zarr arrays.

Importing this package loads neither numpy nor zarr: what needs them is imported when it is first used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dovetail.io.errors import (
    AdapterError,
    ChangedFileError,
    CheckpointError,
    DovetailError,
    DTypeNameError,
    HeaderError,
    IndexFileError,
    MissingFileError,
    NonFiniteError,
    OutputFormatError,
    RemoteError,
    TensorMismatchError,
    TorchFileError,
    UnsupportedError,
    ZarrError,
)

if TYPE_CHECKING:
    import zarr

    from dovetail.io.checkpoint import Checkpoint

__all__ = [
    "AdapterError",
    "ChangedFileError",
    "CheckpointError",
    "DTypeNameError",
    "DovetailError",
    "HeaderError",
    "IndexFileError",
    "MissingFileError",
    "NonFiniteError",
    "OutputFormatError",
    "RemoteError",
    "TensorMismatchError",
    "TorchFileError",
    "UnsupportedError",
    "ZarrError",
    "open_checkpoint",
    "read_checkpoint",
]


def open_checkpoint(path: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None) -> zarr.Group:
    """Open a checkpoint as a read-only Zarr group with one array for each tensor.

    Headers are read and checked; data is read when arrays are indexed, straight from the files.

    Parameters
    ----------
    path
        Any checkpoint that `read_checkpoint` opens: safetensors, PyTorch or Zarr, a folder, a file or an address.
    adapter
        The folder of an adapter to apply; the arrays that it changes are float32, computed chunk by chunk.

    Returns
    -------
    zarr.Group
        The arrays by the tensors' names; an array gives numpy arrays of the tensor's dtype and shape.

    Raises
    ------
    CheckpointError
        If there is no checkpoint at `path`, or it is damaged, or of a kind that is not read.

    Examples
    --------
    >>> group = open_checkpoint("base")
    >>> group["model.norm.weight"].shape
    (64,)

    """
    import zarr

    from dovetail.io.zarr.store import SafetensorsStore

    return zarr.open_group(SafetensorsStore(read_checkpoint(path, adapter)), mode="r")


def read_checkpoint(path: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None) -> Checkpoint:
    """Open a checkpoint as a catalogue of its tensors, with an adapter applied if one is given.

    Parameters
    ----------
    path, adapter
        As for `open_checkpoint`.

    Returns
    -------
    Checkpoint
        Dtype, shape and a lazy source of elements for every tensor, and the checkpoint's files.

    Raises
    ------
    CheckpointError
        If there is no checkpoint at `path`, or it is damaged, or of a kind that is not read.

    Examples
    --------
    >>> checkpoint = read_checkpoint("base")
    >>> tensor = checkpoint.tensors["model.norm.weight"]
    >>> tensor.dtype.name, tensor.shape
    ('BF16', (64,))

    """
    from dovetail.io import opening

    checkpoint = opening.read_checkpoint(path)
    if adapter is None:
        return checkpoint
    from dovetail.io.adapters import apply_adapter, read_adapter

    return apply_adapter(checkpoint, read_adapter(adapter))
