"""Reading objects at HTTP addresses (a `dovetail.io.remote.objects.Objects`).

Whole objects are requested without a range, because small servers do not support range requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dovetail.io.errors import RemoteError
from dovetail.io.remote import http_pages
from dovetail.io.remote.http_connection import ABSENT, request
from dovetail.io.remote.http_transport import (
    check_partial,
    check_there,
    range_of,
    read_exactly,
    read_up_to,
    version_of,
)
from dovetail.io.remote.retrying import TransientError, with_retries

if TYPE_CHECKING:
    import urllib3

__all__ = ["list_below", "look_at", "read_object", "read_part"]


def read_object(address: str, limit_bytes: int) -> bytes | None:
    """Read a whole object; see `dovetail.io.remote.objects.Objects`."""

    def attempt() -> bytes | None:
        with request(address, {}) as response:
            if response.status in ABSENT:
                return None
            check_there(response.status, address)
            if response.status != 200:
                raise RemoteError(f"the server of {address} answers with status {response.status}", "status 200")
            return read_up_to(response, limit_bytes + 1)

    return with_retries(attempt, address)


def read_part(address: str, begin: int, end: int | None) -> bytes | None:
    """Read a part of an object; see `dovetail.io.remote.objects.Objects`."""
    asked = f"bytes={begin}" if end is None else f"bytes={begin}-{end - 1}"

    def attempt() -> bytes | int | None:
        with request(address, {"Range": asked}) as response:
            if response.status in ABSENT:
                return None
            if response.status == 416:  # the object ends before the part begins
                return b""
            check_there(response.status, address)
            if response.status == 200 and end is None:  # the server cannot count from the end
                return _length(response)
            check_partial(response.status, address)
            low, high, size = range_of(response)
            expected = (max(0, size + begin), size) if end is None else (begin, min(end, size))
            if (low, high) != expected:
                raise TransientError(f"bytes {low} to {high} came instead of {expected[0]} to {expected[1]}")
            parts: list[bytes] = []
            read_exactly(response, low, high, lambda _, data: parts.append(data))
            return b"".join(parts)

    if end is not None and begin >= end:
        return b""
    found = with_retries(attempt, address)
    return read_part(address, max(0, found + begin), found) if isinstance(found, int) else found


def list_below(folder: str) -> Iterable[str]:
    """List the paths of all objects below a folder; see `dovetail.io.remote.objects.Objects`."""
    return http_pages.list_below(folder, read_object)


def look_at(address: str) -> tuple[int, tuple[str, ...]]:
    """Give an object's size and version; see `dovetail.io.remote.objects.Objects`."""

    def attempt() -> tuple[int, tuple[str, ...]]:
        with request(address, {"Range": "bytes=0-0"}) as response:
            if response.status == 416:
                return 0, _told(response)
            check_there(response.status, address)
            if response.status == 206:
                low, high, size = range_of(response)
                if (low, high) != (0, 1):
                    raise TransientError(f"bytes {low} to {high} came instead of 0 to 1")
                return size, _told(response)
            if response.status != 200:
                raise RemoteError(f"the server of {address} answers with status {response.status}", "status 206 or 200")
            return _length(response), _told(response)  # the server does not support range requests

    return with_retries(attempt, address)


def _length(response: urllib3.BaseHTTPResponse) -> int:
    """Give the size of a whole object from the header of its answer; 0 if the server does not say."""
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,19}", length) else 0


def _told(response: urllib3.BaseHTTPResponse) -> tuple[str, ...]:
    version = version_of(response)
    return (version,) if version else ()
