"""The catalogue of one checkpoint: its tensors, where their bytes are, and how to know the files again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dovetail.io.dtypes import DType
from dovetail.io.errors import ChangedFileError, MissingFileError
from dovetail.io.source import Source


@dataclass(frozen=True, slots=True)
class StoredForm:
    """How a tensor lies in its files that is dequantised while it is read."""

    text: str
    """The dtype of its codes and what shares a scale, for people."""
    nbytes: int
    """Size of codes and scales in bytes."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint."""

    name: str
    """Tensor name."""
    dtype: DType
    """Element type as `source` gives it."""
    shape: tuple[int, ...]
    """Dimensions; empty for a scalar."""
    source: Source
    """Where the elements are read."""
    own_dtype: DType | None = None
    """The model's own dtype, where elements are computed rather than read as they are stored."""
    stored: StoredForm | None = None
    """How the tensor is stored if it is dequantised while it is read."""

    @property
    def output_dtype(self) -> DType:
        """The dtype that a merge stores if none is asked for."""
        return self.own_dtype or self.dtype

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.source.length

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return self.source.length * self.dtype.itemsize if self.stored is None else self.stored.nbytes


@dataclass(frozen=True, slots=True)
class FileFingerprint:
    """What a file looked like when its checkpoint was opened."""

    name: str
    """File name within the checkpoint."""
    size_bytes: int
    """Size of the file."""
    mtime_ns: int
    """Modification time in nanoseconds since 1970; 0 for a remote file, which has an ETag instead."""
    header_hash: str
    """XXH3-128 of the header, in hexadecimal."""
    etag: str = ""
    """What the server calls this version of a remote file; empty for a local one."""

    def check(self, path: str) -> None:
        """Check that the file, at `path`, is still as it was; of a remote one every answer tells that.

        Raises
        ------
        ChangedFileError
            Its size or modification time differs, or it is gone.

        """
        if self.etag:
            return
        try:
            status = os.stat(path)  # noqa: PTH116 - called with every commit, for hundreds of files
        except OSError as error:
            raise ChangedFileError(
                f"{path} is gone ({error.strerror})", "the file that was opened", "put it back"
            ) from error
        if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
            raise ChangedFileError(
                f"{path} changed while it was in use: {status.st_size} bytes, modified at {status.st_mtime_ns} ns",
                f"{self.size_bytes} bytes, modified at {self.mtime_ns} ns",
                "leave checkpoints alone while they are read, and run again",
            )


class SideFiles(Protocol):
    """The small files beside remote weights: configuration, tokenizer and the like. Picklable."""

    def fetch(self) -> Path:
        """Bring them into a folder of this process, on the first call, and return it.

        Raises
        ------
        CheckpointError
            They cannot be read, or are larger than such files are.

        """

    def read(self, name: str, limit_bytes: int) -> bytes | None:
        """Read one of them alone, up to one byte more than a limit; ``None`` if it is not there."""


@dataclass(frozen=True, slots=True)
class AppliedAdapter:
    """An adapter whose changes the tensors of a checkpoint have."""

    folder: Path
    """Its folder, absolute."""
    files: tuple[FileFingerprint, ...]
    """Its files: configuration and tensors."""
    tensor_count: int
    """How many tensors it changes."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where its files are."""
        return tuple(self.folder / file.name for file in self.files)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose headers were read and checked. Picklable; holds no open file."""

    path: Path | str
    """The folder or file as the user named it, made absolute; the address, a string, of a remote one."""
    folder: Path | None
    """The folder of the tensor files; ``None`` for a single file and for a remote checkpoint."""
    tensors: Mapping[str, TensorInfo]
    """The tensors by name, in the order in which they are stored."""
    metadata: Mapping[str, str]
    """The headers' free-form metadata, those of earlier files winning."""
    files: tuple[FileFingerprint, ...]
    """The tensor files, in order of name."""
    adapter: AppliedAdapter | None = None
    """The adapter applied, if any."""
    notes: tuple[str, ...] = ()
    """What a person should know who merges it, one sentence each."""
    side_files: SideFiles | None = None
    """The small files beside remote weights; ``None`` where they are in `folder`, or nowhere."""

    @property
    def remote(self) -> bool:
        """Whether the tensors are read through the network."""
        return isinstance(self.path, str)

    @property
    def side_folder(self) -> Path | None:
        """Where side files such as ``config.json`` are, fetched if need be; ``None`` for a single local file."""
        return self.folder if self.side_files is None else self.side_files.fetch()

    @property
    def dequantised(self) -> bool:
        """Whether tensors are dequantised while they are read."""
        return any(info.stored is not None for info in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def check_unchanged(self) -> None:
        """Check that the files are still those that were opened.

        Remote files are not asked about again: every answer of their servers says which version it is of, and one of
        another version was an error when it came.

        Raises
        ------
        ChangedFileError
            If the size or modification time of a file differs, or a file is gone.

        """
        for file in self.files:
            file.check(str(self.path) if self.folder is None else f"{self.folder}/{file.name}")
        if self.adapter is not None:
            for file in self.adapter.files:
                file.check(f"{self.adapter.folder}/{file.name}")


def cannot_read(path: Path, error: OSError) -> MissingFileError:
    """Word an error of the system that was met while a checkpoint was opened."""
    return MissingFileError(
        f"cannot read {path} ({error.strerror})", "a readable folder or file", "check its permissions"
    )
