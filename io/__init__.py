"""Dovetail's input and output: checkpoints of any format, which can be read as chunked Zarr arrays.

Importing this package imports neither numpy nor zarr; the functions import what they need when they are called.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

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
    StoreError,
    SystemLimitError,
    TensorMismatchError,
    ThreadLimitError,
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
    "StoreError",
    "SystemLimitError",
    "TensorMismatchError",
    "ThreadLimitError",
    "TorchFileError",
    "UnsupportedError",
    "ZarrError",
    "load_state_dict",
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


def load_state_dict(
    path: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None, *, copy: bool = False
) -> dict[str, Any]:
    """Load a checkpoint of any format as torch tensors, with their dtypes: bfloat16 and float8 too.

    Tensors of local safetensors and PyTorch files are mapped: a page is read when it is first used, changing a tensor
    never changes the file, and nothing is copied. Do not change the files while the tensors are in use. All others are
    read at once into memory, one copy of each: those of Zarr and of addresses, those that are dequantised or changed by
    an adapter, and those that lie unaligned or transposed in their file.

    Parameters
    ----------
    path, adapter
        As for `open_checkpoint`.
    copy
        Whether every tensor is read into memory at once, so that files may be changed or deleted afterwards.

    Returns
    -------
    dict of str to torch.Tensor
        Every tensor on the CPU, with its name and shape, in the checkpoint's order; ``model.load_state_dict`` takes it.

    Raises
    ------
    CheckpointError
        There is no checkpoint at `path`, it is damaged, or Dovetail does not read its format.
    UnsupportedError
        torch is not installed; the message says how to install it.

    Examples
    --------
    >>> tensors = load_state_dict("base")
    >>> tensors["model.norm.weight"].dtype, tuple(tensors["model.norm.weight"].shape)
    (torch.bfloat16, (64,))

    """
    from dovetail.io.extras import require

    require("torch", "torch", "torch tensors")
    from dovetail.io.state_dict import load_tensors

    return load_tensors(read_checkpoint(path, adapter), copy=copy)
