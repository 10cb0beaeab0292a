"""Places that hold the objects of a Zarr checkpoint: the protocol, and the place that is a folder.

`dovetail.io.zarr.zip` has the place that is a zip file, and `dovetail.io.zarr.remote` the one that is an address. A
place reads an object, or a range of it, by key, and never more bytes than the caller allows. Reading is synchronous:
callers wait on a thread that has no event loop to hold up. Places are picklable.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final, Protocol

from dovetail.io.errors import ChangedFileError, SystemLimitError, ZarrError
from dovetail.io.files.smallfile import open_descriptor

ObjectPart = tuple[int, int | None]
"""First byte, counted from the end if it is negative, and one past the last byte; None for the end of the object."""

WHOLE: Final[ObjectPart] = (0, None)
"""The range of a whole object."""


class Place(Protocol):
    """Reads the objects of one checkpoint."""

    @property
    def label(self) -> str:
        """The name of the place in messages."""

    def read(self, key: str, part: ObjectPart, limit_bytes: int, newest_ns: int) -> bytes | None:
        """Read an object, or a part of it; ``None`` if there is no such object.

        Parameters
        ----------
        key
            Key of the object.
        part
            The range of its bytes.
        limit_bytes
            Most bytes that may be read.
        newest_ns
            Latest modification time that the object may have, in nanoseconds since 1970. Places that do not know the
            time of an object ignore it.

        Raises
        ------
        ZarrError
            The part has more bytes than the limit.
        ChangedFileError
            The object was written after the checkpoint was opened, or cannot be read any more.

        """

    def prefetch(self, key: str) -> None:
        """Start reading an object, without waiting for it."""


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """The place that is a folder on this machine."""

    path: str
    """Path of the folder."""

    @property
    def label(self) -> str:
        """The path of the folder."""
        return self.path

    def read(self, key: str, part: ObjectPart, limit_bytes: int, newest_ns: int) -> bytes | None:
        """Read a file: see `Place.read`."""
        path = f"{self.path}/{key}"
        try:
            descriptor = open_descriptor(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ZarrError(f"{path} is no regular file", "a chunk", "write the checkpoint again")
            if status.st_mtime_ns > newest_ns:
                raise ChangedFileError(
                    f"{path} changed while it was in use: modified at {status.st_mtime_ns} ns",
                    f"no change after {newest_ns} ns",
                    "leave checkpoints alone while they are read, and run again",
                )
            begin, end = resolve(part, status.st_size)
            check_limit(path, end - begin, limit_bytes)
            with os.fdopen(descriptor, "rb", closefd=False) as file:  # a single call of pread reads at most 2 GiB
                file.seek(begin)
                data = file.read(end - begin)
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(descriptor)
        if len(data) != end - begin:
            raise ChangedFileError(
                f"{path} gave {len(data)} bytes at {begin}", f"{end - begin} bytes", "check the disk, and run again"
            )
        return data

    def prefetch(self, key: str) -> None:
        """Ask the system to read a file."""
        try:
            descriptor = open_descriptor(f"{self.path}/{key}", os.O_RDONLY)
        except (OSError, SystemLimitError):  # prefetching is only a hint; the read that follows raises the error
            return
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def resolve(part: ObjectPart, size_bytes: int) -> tuple[int, int]:
    """Compute the first byte of a part, and one past its last, from the size of the object."""
    begin, end = part
    if begin < 0:
        begin = max(0, size_bytes + begin)
    end = size_bytes if end is None else min(end, size_bytes)
    return min(begin, end), end


def check_limit(name: str, size_bytes: int, limit_bytes: int) -> None:
    """Refuse to read more bytes than a chunk can have.

    Raises
    ------
    ZarrError
        The size exceeds the limit.

    """
    if size_bytes > limit_bytes:
        raise ZarrError(
            f"{name} holds {size_bytes} bytes or more to be read at once",
            f"at most {limit_bytes} for its metadata",
            "write the checkpoint again",
        )


def _unreadable(path: str, error: OSError) -> ChangedFileError:
    return ChangedFileError(
        f"{path} can no longer be read ({error.strerror})", "the file that was opened", "check it, and run again"
    )
