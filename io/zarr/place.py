"""Where the objects of a Zarr checkpoint are: what every place can do, and folders. Places are picklable.

`dovetail.io.zarr.zip` has zip files, `dovetail.io.zarr.remote` addresses. Each reads whole objects or ranges of them by
key, at most as much as the caller allows, synchronously: whoever reads waits in a thread of its own, never in an event
loop.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final, Protocol

from dovetail.io.errors import ChangedFileError, ZarrError

ObjectPart = tuple[int, int | None]
"""First byte, counted from the end if negative, and the byte after the last; None for the end."""

WHOLE: Final[ObjectPart] = (0, None)
"""The range that is everything."""


class Place(Protocol):
    """The objects of one checkpoint."""

    @property
    def label(self) -> str:
        """What people call the place."""

    def read(self, key: str, part: ObjectPart, limit_bytes: int, newest_ns: int) -> bytes | None:
        """Read an object, or a part of it; ``None`` if there is none.

        Parameters
        ----------
        key
            Which object.
        part
            Which part of it.
        limit_bytes
            Most bytes that may be read.
        newest_ns
            Latest modification time, in nanoseconds since 1970, that the object may have, where the place has such.

        Raises
        ------
        ZarrError
            There is more than the limit.
        ChangedFileError
            The object was written after the checkpoint was opened, or cannot be read any more.

        """

    def prefetch(self, key: str) -> None:
        """Start reading an object, without waiting for it."""


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """A folder on this machine."""

    path: str
    """The folder."""

    @property
    def label(self) -> str:
        """The folder."""
        return self.path

    def read(self, key: str, part: ObjectPart, limit_bytes: int, newest_ns: int) -> bytes | None:
        """Read a file: see `Place.read`."""
        path = f"{self.path}/{key}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
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
            with os.fdopen(descriptor, "rb", closefd=False) as file:  # one call of pread gives 2 GiB at most
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
            descriptor = os.open(f"{self.path}/{key}", os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except OSError:  # a hint: reading will say what is wrong
            return
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def resolve(part: ObjectPart, size_bytes: int) -> tuple[int, int]:
    """Turn a part of an object of known size into its first byte and the byte after its last."""
    begin, end = part
    if begin < 0:
        begin = max(0, size_bytes + begin)
    end = size_bytes if end is None else min(end, size_bytes)
    return min(begin, end), end


def check_limit(name: str, size_bytes: int, limit_bytes: int) -> None:
    """Refuse to read more than what a chunk can need.

    Raises
    ------
    ZarrError
        It is more.

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
