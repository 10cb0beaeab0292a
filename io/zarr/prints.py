"""Fingerprints of the objects of a Zarr checkpoint, by which a changed checkpoint is recognised.

When a checkpoint is opened, the name, size and time of every chunk file are recorded, so that a merge is not resumed
with other chunks. While the checkpoint is in use, a read refuses a chunk that was written after the opening, and every
commit checks the times of the arrays' folders, which change when a chunk file in them is added, removed or replaced.

Some changes go unnoticed: a chunk that is changed in place and given back its old time; a chunk at an address, where
only the metadata documents are checked; a chunk file that is removed, while the checkpoint is in use, from a folder
within an array's folder.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from dovetail.io.checkpoint import FileFingerprint
from dovetail.io.errors import ChangedFileError, CheckpointError, ZarrError
from dovetail.io.formats.index import resolve_in_folder
from dovetail.io.zarr.remote import RemotePlace

_DOCUMENT_NAMES: Final = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_MAX_DEPTH: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksFingerprint(FileFingerprint):
    """Fingerprint of an array's chunk files: a hash of names and sizes, the newest time, and that of the folder."""

    folder_mtime_ns: int
    """Modification time of the array's folder, in nanoseconds since 1970."""
    count: int
    """Number of chunk files."""

    def check(self, path: str) -> None:
        """Check that no file was added to the folder, removed from it or replaced.

        Raises
        ------
        ChangedFileError
            One was, or the folder is gone.

        """
        try:
            found = os.stat(path).st_mtime_ns  # noqa: PTH116 - called with every commit, for every array
        except OSError as error:
            raise ChangedFileError(
                f"{path} is gone ({error.strerror})", "the array that was opened", "put it back"
            ) from (error)
        if found != self.folder_mtime_ns:
            raise ChangedFileError(
                f"{path} changed while it was in use: files came or went at {found} ns",
                f"no change after {self.folder_mtime_ns} ns",
                "leave checkpoints alone while they are read, and run again",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFingerprint(FileFingerprint):
    """Fingerprint of a metadata document at an address: what the server says of its version."""

    place: RemotePlace
    """The place of the checkpoint."""
    version: str
    """The ETag of the document, or other attributes by which the server distinguishes versions."""

    def check(self, path: str) -> None:
        """Check that the server still reports the same size and version.

        Raises
        ------
        ChangedFileError
            It reports another.

        """
        if self.place.fingerprint(self.name) != (self.size_bytes, self.version):
            raise ChangedFileError(
                f"{self.place.address}/{self.name} changed while it was in use",
                "the version that was opened",
                "leave checkpoints alone while they are read, and run again",
            )


def list_chunks(folder: Path, array: str) -> ChunksFingerprint:
    """Look at every chunk file of an array.

    Raises
    ------
    ZarrError
        One is no regular file, or a link that leads outside the checkpoint.

    """
    home = f"{folder}/{array}".rstrip("/")
    lines: list[str] = []
    total = newest = 0
    pending = [""]
    while pending:
        within = pending.pop()
        if within.count("/") > _MAX_DEPTH:
            raise ZarrError(f"{home}/{within} is deeper than chunks can be", "a chunk", "write the checkpoint again")
        with os.scandir(f"{home}/{within}") as entries:
            for entry in entries:
                key = f"{within}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{key}/")
                    continue
                if not within and (entry.name in _DOCUMENT_NAMES or (not array and "." in entry.name[1:])):
                    continue  # where the checkpoint is itself an array, other files may lie beside its chunks
                if entry.is_symlink():
                    stay_inside(folder, f"{array}/{key}".lstrip("/"))
                status = entry.stat()
                if not stat.S_ISREG(status.st_mode):
                    raise ZarrError(f"{home}/{key} is no regular file", "a chunk", "write the checkpoint again")
                total += status.st_size
                newest = max(newest, status.st_mtime_ns)
                lines.append(f"{key}\0{status.st_size}\0")
    digest = xxhash.xxh3_128_hexdigest("".join(sorted(lines)).encode("utf-8", "surrogateescape"))
    changed = os.stat(home).st_mtime_ns  # noqa: PTH116
    return ChunksFingerprint(f"{array or '.'}/", total, newest, digest, folder_mtime_ns=changed, count=len(lines))


def stay_inside(folder: Path, key: str) -> None:
    """Refuse a link that leads outside the checkpoint, other than into the blobs of a hub cache."""
    try:
        resolve_in_folder(folder, key, "its array")
    except CheckpointError as error:
        raise ZarrError(error.what, error.expected, error.action) from error
