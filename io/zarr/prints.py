"""Knowing the objects of a Zarr checkpoint again.

What is noticed: when a checkpoint is opened, the name, size and time of every chunk file are taken, so that a merge
is not continued over other chunks. While it is in use, a chunk that was written since is refused when it is read, and
with every commit an array's folder is looked at, which changes when a chunk file in it is added, removed or replaced.
What is not: a chunk changed in place and given its old time back; chunks of an address, of which only the metadata
documents are asked for again; chunk files in folders within an array's folder that are removed while it is in use.
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
    """What an array's chunk files looked like: number and sizes by hash, newest time, and the folder's own time."""

    folder_mtime_ns: int
    """Modification time of the array's folder, in nanoseconds since 1970."""

    def check(self, path: str) -> None:
        """Check that no file came into the folder, left it or was replaced."""
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
    """What the server said of a metadata document."""

    place: RemotePlace
    """The checkpoint's place."""
    version: str
    """Its ETag, or whatever else the server tells versions by."""

    def check(self, path: str) -> None:
        """Check that the server says the same as before."""
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
                    continue  # beside an array that is the whole checkpoint there may be other files
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
    return ChunksFingerprint(f"{array or '.'}/", total, newest, digest, folder_mtime_ns=changed)


def stay_inside(folder: Path, key: str) -> None:
    """Refuse a link that leads outside the checkpoint, other than into the blobs of a hub cache."""
    try:
        resolve_in_folder(folder, key, "its array")
    except CheckpointError as error:
        raise ZarrError(error.what, error.expected, error.action) from error
