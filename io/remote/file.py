"""One remote file: what is known of it, and the three ways of reading it, whatever the protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a server, as it was when its checkpoint was opened. Picklable."""

    address: str
    """Its address, without secrets."""
    size_bytes: int
    """Its size."""
    etag: str
    """What the server calls this version: the ETag, else the time of the last change."""


Write = Callable[[int, bytes], None]
"""Receives bytes of a file, in order: position in the file, and the bytes."""


class Transport(Protocol):
    """What a protocol must be able to do; one module each, chosen by `dovetail.io.remote.transports`."""

    def open_file(self, address: str, head_bytes: int) -> tuple[RemoteFile, bytes]:
        """Ask for a file's size and version, and its first `head_bytes` bytes, or all if it has fewer.

        Raises
        ------
        MissingFileError
            There is no such file, or it may not be read.
        RemoteError
            The server cannot be reached, or does not answer as it should.
        UnsupportedError
            The server cannot send parts of files, or tell versions apart.

        """
        ...

    def fetch(self, file: RemoteFile, begin: int, end: int, write: Write) -> None:
        """Read bytes ``[begin, end)`` of a file, passing them on as they come, and none twice.

        Raises
        ------
        ChangedFileError
            The file is no longer the one that was opened.
        RemoteError
            It cannot be read, though tried several times.

        """
        ...

    def read_small(self, address: str, limit_bytes: int) -> bytes | None:
        """Read a whole file of at most `limit_bytes`, or that many and one byte more; None if there is none."""
        ...

    def list_files(self, folder: str) -> Mapping[str, int] | None:
        """Give the size in bytes of each file directly in a folder; None where the protocol cannot list."""
        ...
