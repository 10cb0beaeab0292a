"""Opening a checkpoint of any format: look at what is there, call the reader of its format, and dequantise.

Most models are folders of safetensors on the disk; the readers of all else are imported when they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dovetail.io.checkpoint import Checkpoint, cannot_read
from dovetail.io.errors import MissingFileError, UnsupportedError
from dovetail.io.files.home import absolute_path
from dovetail.io.formats import safetensors_reader
from dovetail.io.formats.quantised import dequantise
from dovetail.io.remote.addresses import is_address

OTHER_FORMATS: Final[Mapping[str, str]] = {
    ".ckpt": "PyTorch Lightning",
    ".gguf": "GGUF",
    ".h5": "Keras",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
}
"""For file suffixes of formats that Dovetail does not read, the name of the format."""


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: read and check its headers, and no tensor data.

    Weights that are stored as codes and scales become float32 while they are read: see `dovetail.io.formats.quantised`.

    Parameters
    ----------
    path
        One of these:

        - a folder in the Hugging Face layout: ``model.safetensors``, or shards with an index, or a single
          ``.safetensors`` file of any name (but not beside ``pytorch_model.bin``); or, if there are none of these, the
          corresponding files of PyTorch;
        - one ``.safetensors``, ``.bin``, ``.pt`` or ``.pth`` file;
        - the address of a remote folder or ``.safetensors`` file: see `dovetail.io.remote.addresses`;
        - a Zarr group or tree of arrays: a folder, a ``.zip`` file, or an address such as ``s3://bucket/model.zarr``.

    Returns
    -------
    Checkpoint
        The catalogue of the checkpoint.

    Raises
    ------
    MissingFileError
        If there is no checkpoint at `path`, or one of its files is missing.
    HeaderError, IndexFileError
        If a header or the index breaks its rules.
    UnsupportedError
        If the checkpoint is quantised in a way, or in a format, that is not read, or needs an extra that is not
        installed.
    TorchFileError
        If a PyTorch file is damaged or holds more than weights.
    RemoteError
        If a server cannot be reached or does not answer as it should.

    """
    return dequantise(_read_stored(path))


def _read_stored(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint of any format as it is stored."""
    if "://" in os.fspath(path) and (found := _read_address(path)) is not None:
        return found
    absolute = absolute_path(path)
    try:
        return _read_path(absolute)
    except OSError as error:
        raise cannot_read(absolute, error) from error


def _read_address(path: str | os.PathLike[str]) -> Checkpoint | None:
    """Read a checkpoint at an address; None if it is a path after all."""
    from dovetail.io.zarr.remote import is_zarr_address

    if is_zarr_address(os.fspath(path)):
        from dovetail.io.zarr.reader import read_address

        return read_address(os.fspath(path))
    if isinstance(path, str) and is_address(path):
        from dovetail.io.remote.reader import read_remote

        return read_remote(path)
    return None


def _read_path(path: Path) -> Checkpoint:
    """Find out which format a local checkpoint has, and read it."""
    if path.is_file():
        return _read_file(path)
    if not path.is_dir():
        raise MissingFileError(f"there is no checkpoint at {path}", "a folder or a file", "check the path")
    if safetensors_reader.is_there(path):
        odd = safetensors_reader.odd_file(path)
        return safetensors_reader.read_folder(path) if odd is None else _read_odd(path, odd)
    return _read_other(path)


def _read_file(path: Path) -> Checkpoint:
    """Read one file, by its suffix."""
    if path.suffix == ".safetensors":
        return safetensors_reader.read_file(path)
    if path.suffix == ".zip":
        from dovetail.io.zarr.reader import read_zip

        return read_zip(path)
    if kind := OTHER_FORMATS.get(path.suffix):
        raise UnsupportedError(f"{path} is a {kind} file", "a .safetensors file", "convert it first")
    from dovetail.io.formats import torch_reader

    if path.suffix in torch_reader.SUFFIXES:
        return torch_reader.read_file(path)
    return safetensors_reader.read_file(path)


def _read_odd(path: Path, odd: str) -> Checkpoint:
    """Read a folder whose only safetensors file, of the name `odd`, is not called as models are."""
    from dovetail.io.formats import torch_reader

    usual = torch_reader.usual_file(path)
    if odd == safetensors_reader.ADAPTER_NAME and usual is not None:
        return torch_reader.read_folder(path)
    if safetensors_reader.is_adapter(path):
        from dovetail.io.adapters.config_reader import named_as_model

        raise named_as_model(path)
    if usual is not None:
        raise MissingFileError(
            f"{path} has {odd} and {usual}, and nothing shows which is the model",
            safetensors_reader.LOOKED_FOR,
            "give the path of one file, or remove the other",
        )
    return safetensors_reader.read_folder(path)


def _read_other(path: Path) -> Checkpoint:
    """Read a folder without safetensors files."""
    from dovetail.io.formats import torch_reader
    from dovetail.io.zarr import reader as zarr_reader

    if zarr_reader.is_there(path):
        return zarr_reader.read_folder(path)
    zarr_reader.refuse_ocdbt(path)
    if torch_reader.is_there(path):
        return torch_reader.read_folder(path)
    names = sorted(entry.name for entry in path.iterdir())
    looked_for = f"{safetensors_reader.LOOKED_FOR}, or {zarr_reader.LOOKED_FOR}"
    for name in names:
        if kind := OTHER_FORMATS.get(Path(name).suffix):
            raise MissingFileError(
                f"{path} has no .safetensors file, only {kind} ({name}), which is not read",
                looked_for,
                "convert the checkpoint to safetensors",
            )
    raise MissingFileError(f"{path} has no .safetensors file", looked_for, "check the path")
