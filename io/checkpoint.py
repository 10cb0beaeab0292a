"""The catalogue of one checkpoint: its tensors, where their bytes are, and how to know the files again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from dovetail.io.collector import collector_paused
from dovetail.io.dtypes import DType
from dovetail.io.errors import ChangedFileError, IndexFileError, MissingFileError, UnsupportedError
from dovetail.io.header import read_header
from dovetail.io.index import check_index, read_index, resolve_in_folder
from dovetail.io.layout import INDEX_NAME, SINGLE_NAME
from dovetail.io.mapping import MappedSource
from dovetail.io.quantised import read_config, refuse_quantised
from dovetail.io.source import Source

_ADAPTER_NAME: Final = "adapter_model.safetensors"
_OTHER_FORMATS: Final[Mapping[str, str]] = {
    ".bin": "PyTorch",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".ckpt": "PyTorch",
    ".gguf": "GGUF",
    ".h5": "Keras",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
}
"""File suffixes of formats that are not read, with the format's name."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint."""

    name: str
    """Tensor name."""
    dtype: DType
    """Element type as stored."""
    shape: tuple[int, ...]
    """Dimensions; empty for a scalar."""
    source: Source
    """Where the elements are read."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.source.length

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return self.source.length * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class FileFingerprint:
    """What a file looked like when its checkpoint was opened."""

    name: str
    """File name within the checkpoint."""
    size_bytes: int
    """Size of the file."""
    mtime_ns: int
    """Modification time in nanoseconds since 1970."""
    header_hash: str
    """XXH3-128 of the header, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose headers were read and checked. Picklable; holds no open file."""

    path: Path
    """The folder or file as the user named it, made absolute."""
    folder: Path | None
    """Where side files such as ``config.json`` are; ``None`` for a single file."""
    tensors: Mapping[str, TensorInfo]
    """The tensors by name, in the order in which they are stored."""
    metadata: Mapping[str, str]
    """The headers' free-form metadata, those of earlier files winning."""
    files: tuple[FileFingerprint, ...]
    """The tensor files, in order of name."""

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def check_unchanged(self) -> None:
        """Check that the files are still those that were opened.

        Raises
        ------
        ChangedFileError
            If the size or modification time of a file differs, or a file is gone.

        """
        for file in self.files:
            path = self.path if self.folder is None else f"{self.folder}/{file.name}"
            try:
                status = os.stat(path)  # noqa: PTH116 - called with every commit, for hundreds of files
            except OSError as error:
                raise ChangedFileError(
                    f"{path} is gone ({error.strerror})", "the file that was opened", "put it back"
                ) from error
            if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
                raise ChangedFileError(
                    f"{path} changed while it was in use: {status.st_size} bytes, modified at {status.st_mtime_ns} ns",
                    f"{file.size_bytes} bytes, modified at {file.mtime_ns} ns",
                    "leave checkpoints alone while they are read, and run again",
                )


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: read and check its headers, and no tensor data.

    Parameters
    ----------
    path
        A folder in the Hugging Face layout (``model.safetensors``, or shards with an index, or any one
        ``.safetensors`` file), or one ``.safetensors`` file.

    Raises
    ------
    MissingFileError
        If there is no checkpoint at `path`, or one of its files is missing.
    HeaderError, IndexFileError
        If a header or the index breaks its rules.
    UnsupportedError
        If the checkpoint is quantised or in a format that is not read.

    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would lose the folder of a linked file
    try:
        return _read_path(absolute)
    except OSError as error:
        raise MissingFileError(
            f"cannot read {absolute} ({error.strerror})", "a readable folder or file", "check its permissions"
        ) from error


def _read_path(path: Path) -> Checkpoint:
    """Find the files of a checkpoint, and read them."""
    if path.is_file():
        if kind := _OTHER_FORMATS.get(path.suffix):
            raise UnsupportedError(f"{path} is a {kind} file", "a .safetensors file", "convert it first")
        return _read_files(path, None, [path])
    if not path.is_dir():
        raise MissingFileError(f"there is no checkpoint at {path}", "a folder or a file", "check the path")
    single = path / SINGLE_NAME
    if not os.path.lexists(single) and (index := _find_index(path)):
        weight_map = read_index(index)
        shards = [resolve_in_folder(path, name, index.name) for name in sorted(set(weight_map.values()))]
        checkpoint = _read_files(path, path, shards)
        check_index(index, weight_map, _file_names(checkpoint))
        return checkpoint
    name = SINGLE_NAME if os.path.lexists(single) else _find_single(path)
    return _read_files(path, path, [resolve_in_folder(path, name, "its folder")])


def _find_index(folder: Path) -> Path | None:
    """Find the shard index: the usual name, or the only one of another name."""
    if os.path.lexists(folder / INDEX_NAME):
        return folder / INDEX_NAME
    found = sorted(folder.glob("*.safetensors.index.json"))
    return found[0] if len(found) == 1 else None


def _find_single(folder: Path) -> str:
    """Find the only safetensors file of a folder, or say what is there instead."""
    names = sorted(entry.name for entry in folder.iterdir())
    found = [name for name in names if name.endswith(".safetensors")]
    if found == [_ADAPTER_NAME]:
        raise UnsupportedError(
            f"{folder} is an adapter (LoRA), not a model",
            "a whole model",
            "merge the adapter into its model first",
        )
    if len(found) == 1:
        return found[0]
    looked_for = f"{SINGLE_NAME}, {INDEX_NAME} with its shards, or exactly one .safetensors file"
    if found:
        raise MissingFileError(
            f"{folder} has {len(found)} .safetensors files and no index ({found[0]}, {found[1]}, ...)",
            looked_for,
            "add the index, or give the path of one file",
        )
    for name in names:
        if kind := _OTHER_FORMATS.get(Path(name).suffix):
            raise MissingFileError(
                f"{folder} has no .safetensors file, only {kind} ({name}), which is not read",
                looked_for,
                "convert the checkpoint to safetensors",
            )
    raise MissingFileError(f"{folder} has no .safetensors file", looked_for, "check the path")


@collector_paused()
def _read_files(path: Path, folder: Path | None, files: Iterable[Path]) -> Checkpoint:
    """Read the headers of a checkpoint's files into one catalogue."""
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    fingerprints = []
    for file in files:
        header, size_bytes, mtime_ns = read_header(file)
        fingerprints.append(FileFingerprint(file.name, size_bytes, mtime_ns, xxhash.xxh3_128_hexdigest(header.raw)))
        metadata = {**header.metadata, **metadata}
        file_path = str(file)
        for entry in header.entries:
            if entry.name in tensors:
                raise IndexFileError(
                    f"tensor {entry.name!r} is in {file.name} and in an earlier file of {path}",
                    "each tensor in one file",
                    "download or export the checkpoint again",
                )
            itemsize = entry.dtype.itemsize
            length = (entry.end_bytes - entry.begin_bytes) // itemsize
            offset = header.data_start_bytes + entry.begin_bytes
            source = MappedSource(file_path, offset, length, itemsize, size_bytes, mtime_ns)
            tensors[entry.name] = TensorInfo(entry.name, entry.dtype, entry.shape, source)
    config = read_config(folder) if folder else None
    refuse_quantised(path, ((tensor.name, tensor.dtype) for tensor in tensors.values()), config)
    return Checkpoint(path, folder, tensors, metadata, tuple(fingerprints))


def _file_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Map each tensor to the name of its file."""
    return {
        name: os.path.basename(info.source.path)  # noqa: PTH119 - 50,000 Path objects take a while
        for name, info in checkpoint.tensors.items()
        if isinstance(info.source, MappedSource)
    }
