"""The catalogue of one checkpoint: its tensors, their sources, and fingerprints of its files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from dovetail.io.dtypes import DType
from dovetail.io.errors import ChangedFileError, DovetailError, MissingFileError, SystemLimitError, system_limit
from dovetail.io.source import Source


@dataclass(frozen=True, slots=True)
class StoredForm:
    """How a tensor lies in its files that is dequantised while it is read."""

    text: str
    """The dtype of its codes and what shares a scale, for people."""
    nbytes: int
    """Size of codes and scales in bytes."""


class TensorInfo(NamedTuple):  # faster to make than a frozen dataclass, and there can be a million
    """One tensor of a checkpoint."""

    name: str
    """Tensor name."""
    dtype: DType
    """Type of the elements that `source` gives."""
    shape: tuple[int, ...]
    """Dimensions; empty for a scalar."""
    source: Source
    """Gives the elements."""
    own_dtype: DType | None = None
    """The dtype that the model has, if `source` computes the elements in another one; else None."""
    stored: StoredForm | None = None
    """How the tensor is stored if it is dequantised while it is read."""

    @property
    def output_dtype(self) -> DType:
        """The dtype that a merge stores if the recipe and the options name none."""
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
    """What a file was like when its checkpoint was opened, by which a change can be noticed."""

    name: str
    """File name within the checkpoint."""
    size_bytes: int
    """Size of the file."""
    mtime_ns: int
    """Modification time in nanoseconds since 1970; 0 for a remote file, which has an ETag instead."""
    header_hash: str
    """XXH3-128 of the header, in hexadecimal."""
    etag: str = ""
    """The server's name for this version of a remote file; empty for a local file."""

    def check(self, path: str) -> None:
        """Check that the local file at `path` has not changed.

        A remote file is not checked here, because every answer of its server is checked for the file's version.

        Raises
        ------
        ChangedFileError
            The size or modification time of the file differs, or the file is gone.

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
        """Return a folder of this process that holds the files; the first call downloads them.

        Raises
        ------
        CheckpointError
            A file cannot be read, or is larger than files of this kind may be.

        """

    def read(self, name: str, limit_bytes: int) -> bytes | None:
        """Read one of them alone, up to one byte more than a limit; ``None`` if it is not there."""


@dataclass(frozen=True, slots=True)
class AppliedAdapter:
    """An adapter that has been applied to a checkpoint."""

    folder: Path
    """The adapter's folder, absolute."""
    files: tuple[FileFingerprint, ...]
    """The adapter's configuration and tensor files."""
    tensor_count: int
    """Number of the checkpoint's tensors that the adapter changes."""
    unties: bool = False
    """Whether the model stored its head as its embedding, and the adapter makes the two differ."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Paths of the adapter's files."""
        return tuple(self.folder / file.name for file in self.files)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint after its headers were read and checked. It can be pickled, and holds no open file."""

    path: Path | str
    """The folder or file that the user named, made absolute; for a remote checkpoint its address, a string."""
    folder: Path | None
    """The folder of the tensor files; ``None`` for a single file and for a remote checkpoint."""
    tensors: Mapping[str, TensorInfo]
    """The tensors by name, in the order in which they are stored."""
    metadata: Mapping[str, str]
    """The headers' free-form metadata; of equal keys in several files, the first file's value."""
    files: tuple[FileFingerprint, ...]
    """The tensor files, in order of name."""
    adapter: AppliedAdapter | None = None
    """The adapter that was applied; None if there is none."""
    notes: tuple[str, ...] = ()
    """Warnings about the checkpoint for its user, one sentence each."""
    side_files: SideFiles | None = None
    """The small files beside remote weights; ``None`` if they are in `folder`, or if there are none."""
    planned: bool = False
    """Whether it is only planned as yet, so that its tensors cannot be read."""

    def __repr__(self) -> str:
        adapter = "" if self.adapter is None else f" with {self.adapter.folder}"
        return f"Checkpoint({str(self.path)!r}{adapter}, tensors: {len(self.tensors):,}, bytes: {self.nbytes:,})"

    @property
    def remote(self) -> bool:
        """Whether the tensors are read over the network."""
        return isinstance(self.path, str)

    @property
    def side_folder(self) -> Path | None:
        """The folder of side files such as ``config.json``, downloaded if remote; ``None`` for a single local file."""
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
        """Check that no local file has changed since the checkpoint was opened.

        Remote files are not checked here. Every answer of a server says which version of a file it comes from, and an
        answer from another version has raised an error already.

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


def cannot_read(path: Path, error: OSError) -> MissingFileError | SystemLimitError:
    """Make the error of ours for one of the operating system that occurred while a checkpoint was opened."""
    return system_limit(error, path) or MissingFileError(
        f"cannot read {path} ({error.strerror})", "a readable folder or file", "check its permissions"
    )


@contextlib.contextmanager
def only_inputs() -> Iterator[None]:
    """Take every error of the operating system for that of an input, where nothing is written.

    Raises
    ------
    MissingFileError
        Such an error came.

    """
    try:
        yield
    except DovetailError:
        raise
    except OSError as error:
        if error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT):  # of a download, for instance
            raise
        raise cannot_read(Path(os.fsdecode(error.filename)), error) from error
