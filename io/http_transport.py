"""Reading files by HTTP range requests (a `dovetail.io.remote_file.Transport`).

Built on urllib3, which keeps connections open, is safe to share among threads, strips credentials where a redirect
leads to another host, and costs a process little memory. What it leaves to its user is here: a failure in the middle
of a body continues where it broke off, and no answer is believed that is not exactly the one asked for.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib.metadata
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from dovetail.io import credentials
from dovetail.io.addresses import hub_parts
from dovetail.io.errors import ChangedFileError, HeaderError, MissingFileError, RemoteError, UnsupportedError
from dovetail.io.extras import require
from dovetail.io.remote_file import RemoteFile, Write
from dovetail.io.retrying import TransientError, with_retries

if TYPE_CHECKING:
    import urllib3

CONNECT_TIMEOUT_S = 15.0
"""Longest wait for a connection, in seconds."""

READ_TIMEOUT_S = 30.0
"""Longest wait for the next bytes."""

POOL_TIMEOUT_S = 3_600.0
"""Longest wait for one of the connections, which many workers share; each is soon free, or given up."""

LEAST_BYTES_PER_S = 16 * 2**10
"""A connection that is slower than this over `READ_TIMEOUT_S` and more is given up, and tried anew."""

MAX_REDIRECTS: Final = 5
CONNECTIONS: Final = 8
"""Most connections to one host."""

_STEP_BYTES: Final = 2**18
_TRANSIENT: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_ABSENT: Final = frozenset((404, 410))
_FORBIDDEN: Final = frozenset((401, 403))
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")

_lock = threading.Lock()
_pools: dict[str | None, Any] = {}
_final: dict[str, str] = {}


def _reset() -> None:
    """Begin anew in a process that was forked: connections must not be shared with its parent."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()
    _final.clear()


os.register_at_fork(after_in_child=_reset)


def open_file(address: str, head_bytes: int) -> tuple[RemoteFile, bytes]:
    """Ask for a file's size, version and first bytes; see `dovetail.io.remote_file.Transport`."""

    def attempt() -> tuple[RemoteFile, bytes]:
        with _get(address, {"Range": f"bytes=0-{head_bytes - 1}"}) as response:
            if response.status == 416:
                raise HeaderError(f"{address} is empty", "a safetensors file", "export the file again")
            _check_there(response.status, address)
            if response.status != 206:
                raise UnsupportedError(
                    f"the server of {address} answers a request for a part of the file with status {response.status}",
                    "status 206 and the part",
                    "use a server that supports range requests, or download the file first",
                )
            begin, end, size = _range_of(response)
            if begin != 0 or end != min(size, head_bytes):
                raise TransientError(f"bytes {begin} to {end} came instead of 0 to {min(size, head_bytes)}")
            if not (version := _version(response)):
                raise UnsupportedError(
                    f"the server of {address} tells neither ETag nor Last-Modified",
                    "one of them: a change of the file would go unnoticed",
                    "use another server, or download the file first",
                )
            parts: list[bytes] = []
            _read_body(response, 0, end, lambda _, data: parts.append(data))
            return RemoteFile(address, size, version), b"".join(parts)

    return with_retries(attempt, address)


def fetch(file: RemoteFile, begin: int, end: int, write: Write) -> None:
    """Read a range of a file; see `dovetail.io.remote_file.Transport`."""
    position = begin

    def passed_on(at: int, data: bytes) -> None:
        nonlocal position
        write(at, data)
        position = at + len(data)

    def attempt() -> None:
        asked = {"Range": f"bytes={position}-{end - 1}"}
        if not file.etag.startswith("W/"):
            asked["If-Range"] = file.etag
        with _get(file.address, asked) as response:
            _check_same(response, file)
            if (found := _range_of(response)) != (position, end, file.size_bytes):
                raise TransientError(f"bytes {found[0]} to {found[1]} came instead of {position} to {end}")
            _read_body(response, position, end, passed_on)

    if begin < end:
        with_retries(attempt, file.address)


def read_small(address: str, limit_bytes: int) -> bytes | None:
    """Read a whole small file; see `dovetail.io.remote_file.Transport`."""

    def attempt() -> bytes | None:
        with _get(address, {}) as response:
            if response.status in _ABSENT or response.status == 403:  # object stores forbid what is not there
                return None
            _check_there(response.status, address)
            if response.status != 200:
                raise RemoteError(f"the server of {address} answers with status {response.status}", "status 200")
            parts: list[bytes] = []
            left, deadline = limit_bytes + 1, time.monotonic() + READ_TIMEOUT_S + limit_bytes / LEAST_BYTES_PER_S
            while left > 0 and (data := _read(response, min(left, _STEP_BYTES))):
                parts.append(data)
                left -= len(data)
                _check_pace(deadline)
            return b"".join(parts)

    return with_retries(attempt, address)


def list_files(folder: str) -> Mapping[str, int] | None:
    """Give the files of a model on a hub; plain HTTP cannot list."""
    if not folder.startswith("hf://"):
        return None
    from dovetail.io import hub

    name, revision, _ = hub_parts(folder)
    return hub.look_up(name, revision).files


def url_of(address: str) -> str:
    """Give the URL that an address stands for: ``hf://`` is short for a path below ``HF_ENDPOINT``."""
    if not address.startswith("hf://"):
        return address
    name, revision, file = hub_parts(address)
    return f"{credentials.hub_endpoint()}/{name}/resolve/{revision}/{file}"


@contextlib.contextmanager
def _get(address: str, asked: Mapping[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
    """Make one request, follow redirects, and give the answer before its body is read.

    Raises
    ------
    TransientError
        No answer came, or one that says to try later.
    RemoteError
        The certificate is not trusted, redirects do not end, or one leads out of ``https``.

    """
    require("urllib3", "remote", "addresses")
    import urllib3

    url = _final.get(address) or url_of(address)
    headers = {
        "Accept-Encoding": "identity",
        "User-Agent": f"dovetail/{importlib.metadata.version('dovetail')}",
        **credentials.headers_for(url),
        **asked,
    }
    retries = urllib3.Retry(total=None, connect=0, read=0, redirect=MAX_REDIRECTS, status=0, other=0)
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
    response = None
    try:
        response = _pool(url).request(
            "GET",
            url,
            headers=headers,
            retries=retries,
            timeout=timeout,
            pool_timeout=POOL_TIMEOUT_S,
            preload_content=False,
            decode_content=False,
        )
        _follow(address, url, response)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RemoteError(f"the server of {address} compresses its answers", "the file as it is")
        if response.status in _TRANSIENT:
            raise TransientError(f"status {response.status}", _pause(response.headers.get("Retry-After")))
        yield response
    except urllib3.exceptions.HTTPError as error:
        raise _translated(error, address) from None  # its text can hold a signed address
    finally:
        if response is not None:
            _give_back(response)


def _follow(address: str, url: str, response: urllib3.BaseHTTPResponse) -> None:
    """Remember where redirects led, so that the next request goes there at once, and forget it when it has expired."""
    final = response.url or url
    if url.startswith("https:") and not final.startswith(("https:", "/")):
        raise RemoteError(f"{address} redirects to an address that is not encrypted", "https")
    if address in _final and response.status in _ABSENT | _FORBIDDEN | {400}:
        with _lock:
            _final.pop(address, None)
        raise TransientError(f"status {response.status} from where the file was before")
    if final != url and final.startswith("http") and response.status in (200, 206):
        with _lock:
            _final[address] = final


def _give_back(response: urllib3.BaseHTTPResponse) -> None:
    """Keep the connection if its body was read to the end; else close it, as the rest may never end."""
    if getattr(response, "length_remaining", None) != 0:
        response.close()
    response.release_conn()


def _pool(url: str) -> urllib3.PoolManager:
    """Give this process's connections: direct ones, or through the proxy that the environment names."""
    import urllib.request

    import urllib3

    parts = urlsplit(url)
    bypassed = urllib.request.proxy_bypass(parts.netloc)
    proxy = None if bypassed else urllib.request.getproxies().get(parts.scheme)
    with _lock:
        if proxy not in _pools:
            if proxy is None:
                _pools[proxy] = urllib3.PoolManager(num_pools=16, maxsize=CONNECTIONS, block=True)
            else:
                place = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
                user = f"{place.username}:{place.password or ''}" if place.username else None
                clean = f"{place.scheme}://{place.hostname}" + (f":{place.port}" if place.port else "")
                _pools[proxy] = urllib3.ProxyManager(
                    clean,
                    num_pools=16,
                    maxsize=CONNECTIONS,
                    block=True,
                    proxy_headers=urllib3.make_headers(proxy_basic_auth=user) if user else None,
                )
        pool: urllib3.PoolManager = _pools[proxy]
        return pool


def _translated(error: urllib3.exceptions.HTTPError, address: str) -> Exception:
    """Word a failure of the connection."""
    from urllib3 import exceptions

    cause = getattr(error, "reason", None) or error
    if isinstance(cause, exceptions.SSLError) and "CERTIFICATE" in str(cause).upper():
        return RemoteError(
            f"the certificate of the server of {address} is not trusted",
            "a valid one",
            "set SSL_CERT_FILE to the certificates of your network, if it has its own",
        )
    if isinstance(error, exceptions.MaxRetryError) and isinstance(cause, exceptions.ResponseError):
        return RemoteError(f"{address} redirects more than {MAX_REDIRECTS} times", "fewer", "check the address")
    if isinstance(error, exceptions.LocationValueError):
        return RemoteError(f"{address} cannot be asked for, or redirects to what cannot", "a server's address")
    words = {
        exceptions.NameResolutionError: "no such host",
        exceptions.NewConnectionError: "no connection",
        exceptions.ConnectTimeoutError: "no connection in time",
        exceptions.ReadTimeoutError: "no answer in time",
        exceptions.IncompleteRead: "the answer broke off",
        exceptions.ProtocolError: "the connection broke",
        exceptions.ProxyError: "the proxy does not answer",
        exceptions.SSLError: "the encrypted connection failed",
    }
    reason = next((text for kind, text in words.items() if isinstance(cause, kind)), type(cause).__name__)
    return TransientError(reason)


def _read(response: urllib3.BaseHTTPResponse, size_bytes: int) -> bytes:
    """Read what has come, at most so much, and wait only if nothing has: so that a trickle is noticed."""
    return response.read1(size_bytes, decode_content=False) or b""


def _read_body(response: urllib3.BaseHTTPResponse, position: int, end: int, write: Write) -> None:
    """Pass on exactly the bytes asked for; whatever a server sends beyond is not read."""
    length = response.headers.get("Content-Length")
    if length is not None and length != str(end - position):
        raise TransientError(f"the server announced {length[:20]} bytes instead of {end - position}")
    deadline = time.monotonic() + READ_TIMEOUT_S + (end - position) / LEAST_BYTES_PER_S
    while position < end:
        data = _read(response, min(_STEP_BYTES, end - position))
        if not data:
            raise TransientError("the answer broke off")
        write(position, data)
        position += len(data)
        _check_pace(deadline)


def _check_pace(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TransientError(f"less than {LEAST_BYTES_PER_S >> 10} KiB/s came")


def _check_there(status: int, address: str) -> None:
    if status in _ABSENT:
        raise MissingFileError(f"there is no file at {address} (status {status})", "a file", "check the address")
    if status in _FORBIDDEN:
        raise MissingFileError(
            f"the server does not let {address} be read (status {status})",
            "a file that may be read",
            credentials.advice(address),
        )


def _check_same(response: urllib3.BaseHTTPResponse, file: RemoteFile) -> None:
    """Check that an answer is about the version of the file that was opened."""
    status, version = response.status, _version(response)
    if status in _ABSENT:
        raise _changed(file, f"is gone (status {status})")
    _check_there(status, file.address)
    if status == 416 or (status in (200, 206) and version and version != file.etag):
        now = f"it is now {version[:80]!r}" if version else "it is shorter now"
        raise _changed(file, f"changed since it was opened: {now}")
    if status != 206:
        raise RemoteError(
            f"the server of {file.address} answers a request for a part of the file with status {status}",
            "status 206 and the part",
            "use a server that supports range requests, or download the file first",
        )
    if not version:
        raise TransientError("an answer without the file's version came")


def _changed(file: RemoteFile, what: str) -> ChangedFileError:
    return ChangedFileError(
        f"{file.address} {what}",
        f"{file.etag}, of {file.size_bytes} bytes",
        "restore it and run the same command again to continue, or pass --restart to begin anew",
    )


def _version(response: urllib3.BaseHTTPResponse) -> str:
    """Give what the server calls the version of the file, printable and of bearable length."""
    found = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return found if found.isprintable() and len(found) <= 256 else ""


def _range_of(response: urllib3.BaseHTTPResponse) -> tuple[int, int, int]:
    """Read begin, end and size of the part that came.

    Raises
    ------
    TransientError
        The server does not say, or says nonsense.

    """
    text = response.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise TransientError(f"the server calls the part it sends {text[:80]!r}")
    begin, last, size = map(int, found.groups())
    return begin, last + 1, size


def _pause(retry_after: str | None) -> float | None:
    """Give the seconds for which a server asks to be left alone."""
    if not retry_after:
        return None
    if re.fullmatch(r"[0-9]{1,9}", retry_after.strip()):
        return float(retry_after)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
