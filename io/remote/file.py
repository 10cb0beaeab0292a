"""The description of a remote file, and the interface through which every protocol reads such files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a server, as it was when its checkpoint was opened. It can be pickled."""

    address: str
    """Address of the file, without secrets."""
    size_bytes: int
    """Size of the file."""
    etag: str
    """The server's name for this version of the file: the ETag, or else the time of the last change."""


Write = Callable[[int, bytes], None]
"""A function that receives bytes of a file, in order: their position in the file, and the bytes."""


class Transport(Protocol):
    """The interface of a module that reads files by one protocol, chosen by `dovetail.io.remote.transports`."""

    def open_file(self, address: str, head_bytes: int) -> tuple[RemoteFile, bytes]:
        """Ask for a file's size and version, and for its first `head_bytes` bytes, or all bytes if it has fewer.

        Raises
        ------
        MissingFileError
            The file is missing, or may not be read.
        RemoteError
            The server cannot be reached, or does not answer as it should.
        UnsupportedError
            The server cannot send parts of files, or does not distinguish versions of a file.

        """
        ...

    def fetch(self, file: RemoteFile, begin: int, end: int, write: Write) -> None:
        """Read bytes ``[begin, end)`` of a file, and pass each byte to `write` once, as soon as it comes.

        Raises
        ------
        ChangedFileError
            The file has changed since it was opened.
        RemoteError
            The file could not be read in several attempts.

        """
        ...

    def read_small(self, address: str, limit_bytes: int) -> bytes | None:
        """Read a whole file, or of a longer one the first `limit_bytes` + 1 bytes; None if there is no such file.

        Raises
        ------
        CheckpointError
            The file may not be read, or the server does not answer as it should.

        """
        ...

    def list_files(self, folder: str) -> Mapping[str, int] | None:
        """Give the size in bytes of each file directly in a folder, by name; None if the protocol cannot list files."""
        ...
