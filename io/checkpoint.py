"""The catalogue of one checkpoint: its tensors, where their bytes are, and how to know the files again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dovetail.io.dtypes import DType
from dovetail.io.errors import ChangedFileError
from dovetail.io.source import Source


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

    def check(self, path: str) -> None:
        """Check that the file, at `path`, is still as it was.

        Raises
        ------
        ChangedFileError
            Its size or modification time differs, or it is gone.

        """
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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose headers were read and checked. Picklable; holds no open file."""

    path: Path | str
    """The folder or file as the user named it, made absolute; an address as text."""
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
            file.check(str(self.path) if self.folder is None else f"{self.folder}/{file.name}")
