"""Reading files of object stores through fsspec and s3fs (a `dovetail.io.remote.file.Transport`).

Credentials, region and endpoint are taken from where other tools for such stores look for them, such as
``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` and ``~/.aws``. If there are no credentials, requests are anonymous.
obstore was weighed instead of s3fs. s3fs was kept because it looks for credentials along the whole AWS chain
(environment, profiles, roles), so that whoever can use the AWS tools need set up nothing further.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

from dovetail.io.errors import ChangedFileError, HeaderError, MissingFileError, UnsupportedError
from dovetail.io.extras import require
from dovetail.io.remote.file import RemoteFile, Write
from dovetail.io.remote.retrying import TransientError
from dovetail.io.remote.stores import LISTED_BYTES, ask

_STEP_BYTES: Final = 2**22
_MAX_LISTED: Final = 10_000

T = TypeVar("T")
_thread = threading.local()


def open_file(address: str, head_bytes: int) -> tuple[RemoteFile, bytes]:
    """Ask for a file's size, version and first bytes; see `dovetail.io.remote.file.Transport`."""
    details = ask_store(lambda store: store.info(address, refresh=True), address)
    size, version = details.get("size"), str(details.get("ETag") or details.get("LastModified") or "")
    if details.get("type") != "file" or not isinstance(size, int):
        raise MissingFileError(f"there is no file at {address}", "a file", "check the address")
    if size == 0:
        raise HeaderError(f"{address} is empty", "a safetensors file", "export the file again")
    if not version:
        raise UnsupportedError(
            f"the server of {address} tells no ETag",
            "an ETag, without which a change of the file would go unnoticed",
            "download the file first",
        )
    file = RemoteFile(address, size, version)
    parts: list[bytes] = []
    fetch(file, 0, min(size, head_bytes), lambda _, data: parts.append(data))
    return file, b"".join(parts)


def fetch(file: RemoteFile, begin: int, end: int, write: Write) -> None:
    """Read a range of a file; see `dovetail.io.remote.file.Transport`."""
    for position in range(begin, end, _STEP_BYTES):
        stop = min(end, position + _STEP_BYTES)
        # The question is asked in a thread that does not last; the handles are this one's.
        part = functools.partial(_part, handles=_handles(), file=file, begin=position, end=stop)
        write(position, ask_store(part, file.address, stop - position))


def read_small(address: str, limit_bytes: int) -> bytes | None:
    """Read a whole small file; see `dovetail.io.remote.file.Transport`."""
    try:
        data: bytes = ask_store(
            lambda store: store.cat_file(address, start=0, end=limit_bytes + 1), address, limit_bytes
        )
    except MissingFileError:
        return None
    return data


def list_files(folder: str) -> Mapping[str, int] | None:
    """Give the size in bytes of each file directly in a folder; see `dovetail.io.remote.file.Transport`."""
    entries = ask_store(lambda store: store.ls(folder, detail=True, refresh=True), folder)
    files = [entry for entry in entries if entry.get("type") == "file"][:_MAX_LISTED]
    return {str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"]) for entry in files}


def _handles() -> dict[RemoteFile, Any]:
    """Give the open files of this thread."""
    found: dict[RemoteFile, Any] = _thread.__dict__.setdefault("handles", {})
    return found


def _part(store: Any, handles: dict[RemoteFile, Any], file: RemoteFile, begin: int, end: int) -> bytes:
    """Read a range of a file; the request has the ETag of the version that was opened, so that no other one is read."""
    handle = handles.pop(file, None)  # a thread that is left alone must not share it with the next
    if handle is None:
        if len(handles) >= 64:
            handles.clear()
        handle = store.open(file.address, "rb", cache_type="none")
        details = handle.details
        found = (details.get("size"), str(details.get("ETag") or details.get("LastModified") or ""))
        if found != (file.size_bytes, file.etag):
            raise _changed(file, f"it is now {found[1]!r}, of {found[0]} bytes")
    handle.seek(begin)
    data: bytes = handle.read(end - begin)  # after an error, the next attempt opens the file again, whose version tells
    handles[file] = handle
    if len(data) != end - begin:
        raise TransientError(f"{len(data)} bytes came instead of {end - begin}")
    return data


def ask_store(question: Callable[[Any], T], address: str, most_bytes: int = LISTED_BYTES) -> T:
    """Ask the object store a question; raises as `dovetail.io.remote.stores.ask` does."""
    require("s3fs", "s3", "s3:// addresses")
    return ask(_store, question, address, most_bytes)


def _changed(file: RemoteFile, what: str) -> ChangedFileError:
    return ChangedFileError(
        f"{file.address} changed since it was opened: {what}",
        f"{file.etag!r}, of {file.size_bytes} bytes",
        "restore it and run the same command again to continue, or pass --restart to begin anew",
    )


def _store() -> Any:
    return _store_of(os.getpid())


@cache
def _store_of(process: int) -> Any:
    """Open the store, once in each process, because a child process must not use its parent's connections."""
    import botocore.session
    import s3fs

    anonymous = botocore.session.Session().get_credentials() is None
    return s3fs.S3FileSystem(anon=anonymous, skip_instance_cache=True, use_listings_cache=False)
