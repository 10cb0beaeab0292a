"""Reading files by HTTP range requests (a `dovetail.io.remote.file.Transport`).

If a connection breaks in the middle of a body, the next attempt continues from there. An answer is used only if it has
exactly the range, the size and the version that were requested.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from dovetail.io.errors import ChangedFileError, HeaderError, MissingFileError, RemoteError, UnsupportedError
from dovetail.io.remote import credentials
from dovetail.io.remote.file import RemoteFile, Write
from dovetail.io.remote.http_connection import ABSENT, FORBIDDEN, read, request
from dovetail.io.remote.retrying import TransientError, with_retries

if TYPE_CHECKING:
    import urllib3

_STEP_BYTES: Final = 2**18
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


def open_file(address: str, head_bytes: int) -> tuple[RemoteFile, bytes]:
    """Ask for a file's size, version and first bytes; see `dovetail.io.remote.file.Transport`."""

    def attempt() -> tuple[RemoteFile, bytes]:
        with request(address, {"Range": f"bytes=0-{head_bytes - 1}"}, remember=True) as response:
            if response.status == 416:
                raise HeaderError(f"{address} is empty", "a safetensors file", "export the file again")
            check_there(response.status, address)
            check_partial(response.status, address)
            begin, end, size = range_of(response)
            if begin != 0 or end != min(size, head_bytes):
                raise TransientError(f"bytes {begin} to {end} came instead of 0 to {min(size, head_bytes)}")
            if not (version := version_of(response)):
                raise UnsupportedError(
                    f"the server of {address} tells neither ETag nor Last-Modified",
                    "one of them, without which a change of the file would go unnoticed",
                    "use another server, or download the file first",
                )
            parts: list[bytes] = []
            read_exactly(response, 0, end, lambda _, data: parts.append(data))
            return RemoteFile(address, size, version), b"".join(parts)

    return with_retries(attempt, address)


def fetch(file: RemoteFile, begin: int, end: int, write: Write) -> None:
    """Read a range of a file; see `dovetail.io.remote.file.Transport`."""
    position = begin

    def passed_on(at: int, data: bytes) -> None:
        nonlocal position
        write(at, data)
        position = at + len(data)

    def attempt() -> None:
        asked = {"Range": f"bytes={position}-{end - 1}"}
        if not file.etag.startswith("W/"):
            asked["If-Range"] = file.etag
        with request(file.address, asked, anew=False, remember=True) as response:
            _check_same(response, file)
            if (found := range_of(response)) != (position, end, file.size_bytes):
                raise TransientError(f"bytes {found[0]} to {found[1]} came instead of {position} to {end}")
            read_exactly(response, position, end, passed_on)

    if begin < end:
        with_retries(attempt, file.address)


def read_small(address: str, limit_bytes: int) -> bytes | None:
    """Read a whole small file; see `dovetail.io.remote.file.Transport`."""

    def attempt() -> bytes | None:
        with request(address, {}) as response:
            if response.status in ABSENT or response.status == 403:  # object stores answer so for a missing file
                return None
            check_there(response.status, address)
            if response.status != 200:
                raise RemoteError(f"the server of {address} answers with status {response.status}", "status 200")
            return read_up_to(response, limit_bytes + 1)

    return with_retries(attempt, address)


def list_files(folder: str) -> Mapping[str, int] | None:
    """Give None, because HTTP cannot list files."""
    return None


def read_up_to(response: urllib3.BaseHTTPResponse, most_bytes: int) -> bytes:
    """Read a body to its end, but no more than `most_bytes` of it."""
    parts: list[bytes] = []
    left = most_bytes
    while left > 0 and (data := read(response, min(left, _STEP_BYTES))):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def read_exactly(response: urllib3.BaseHTTPResponse, position: int, end: int, write: Write) -> None:
    """Read exactly the bytes that were requested and pass them to `write`; further bytes of the answer are not read.

    Raises
    ------
    TransientError
        The answer has another length, or breaks off.

    """
    length = response.headers.get("Content-Length")
    if length is not None and length != str(end - position):
        raise TransientError(f"the server announced {length[:20]} bytes instead of {end - position}")
    while position < end:
        data = read(response, min(_STEP_BYTES, end - position))
        if not data:
            raise TransientError("the answer broke off")
        write(position, data)
        position += len(data)


def check_partial(status: int, address: str) -> None:
    """Check, by the status of the answer, that a server sends the requested part of a file and not the whole file.

    Raises
    ------
    UnsupportedError
        The server sends something else.

    """
    if status != 206:
        raise UnsupportedError(
            f"the server of {address} answers a request for a part of the file with status {status}",
            "status 206 and the part",
            "use a server that supports range requests, or download the file first",
        )


def check_there(status: int, address: str) -> None:
    """Check, by the status of the answer, that a file exists and may be read.

    Raises
    ------
    MissingFileError
        The file is missing, or may not be read.

    """
    if status in ABSENT:
        raise MissingFileError(f"there is no file at {address} (status {status})", "a file", "check the address")
    if status in FORBIDDEN:
        raise MissingFileError(
            f"the server does not let {address} be read (status {status})",
            "a file that may be read",
            credentials.advice(address),
        )


def _check_same(response: urllib3.BaseHTTPResponse, file: RemoteFile) -> None:
    """Check that an answer comes from the version of the file that was opened."""
    status, version = response.status, version_of(response)
    if status in ABSENT:
        raise _changed(file, f"is gone (status {status})")
    check_there(status, file.address)
    if status == 416 or (status in (200, 206) and version and version != file.etag):
        now = f"it is now {version[:80]!r}" if version else "it is shorter now"
        raise _changed(file, f"changed since it was opened: {now}")
    check_partial(status, file.address)
    if not version:
        raise TransientError("an answer without the file's version came")


def _changed(file: RemoteFile, what: str) -> ChangedFileError:
    return ChangedFileError(
        f"{file.address} {what}",
        f"{file.etag}, of {file.size_bytes} bytes",
        "restore it and run the same command again to continue, or pass --restart to begin anew",
    )


def version_of(response: urllib3.BaseHTTPResponse) -> str:
    """Give the server's name for the file's version; empty if it gives none, or an unprintable or very long one."""
    found = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return found if found.isprintable() and len(found) <= 256 else ""


def range_of(response: urllib3.BaseHTTPResponse) -> tuple[int, int, int]:
    """Read, from an answer's header, the begin and end of the part that came, and the size of the whole file.

    Raises
    ------
    TransientError
        The header is missing or malformed.

    """
    text = response.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise TransientError(f"the server calls the part it sends {text[:80]!r}")
    begin, last, size = map(int, found.groups())
    return begin, last + 1, size
