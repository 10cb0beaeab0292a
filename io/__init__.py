"""Dovetail's input and output: checkpoints of any format, which can be read as chunked Zarr arrays.

Importing this package imports neither numpy nor zarr; the functions import what they need when they are called.
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

    Headers are read and checked at once. Tensor data is read from the files when an array is indexed.

    Parameters
    ----------
    path
        A checkpoint of safetensors, PyTorch or Zarr: a folder, a file or an address.
    adapter
        The folder of an adapter to apply; the arrays that it changes are float32, computed chunk by chunk.

    Returns
    -------
    zarr.Group
        One array for each tensor, with its name, dtype and shape; indexing an array gives numpy arrays.

    Raises
    ------
    CheckpointError
        If there is no checkpoint at `path`, if it is damaged, or if Dovetail does not read its format.

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
    """Open a checkpoint as a catalogue of its tensors, and apply an adapter if one is given.

    Parameters
    ----------
    path, adapter
        As for `open_checkpoint`.

    Returns
    -------
    Checkpoint
        The dtype and shape of every tensor, a source from which its elements can be read, and the checkpoint's files.

    Raises
    ------
    CheckpointError
        If there is no checkpoint at `path`, if it is damaged, or if Dovetail does not read its format.

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
