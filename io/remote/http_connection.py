"""Making single requests to HTTP servers, with redirects, proxies and credentials, and naming what goes wrong.

This module uses urllib3, which keeps connections open, can be shared by threads, and takes little memory. Redirects are
followed here, because urllib3 reads their bodies to the end, and a body may have none.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib.metadata
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

from dovetail.io.errors import RemoteError
from dovetail.io.extras import require
from dovetail.io.remote import credentials
from dovetail.io.remote.addresses import hub_parts
from dovetail.io.remote.library_logs import logged_without_secrets
from dovetail.io.remote.retrying import TransientError

if TYPE_CHECKING:
    import urllib3

CONNECT_TIMEOUT_S = 15.0
"""Longest wait for a connection, in seconds."""

READ_TIMEOUT_S = 30.0
"""Longest wait for an answer, in seconds: connecting, redirects, headers and body together."""

LEAST_BYTES_PER_S = 16 * 2**10
"""An answer may take longer by a second for each so many bytes that come; a request that takes longer is given up."""

POOL_TIMEOUT_S = 3_600.0
"""Longest wait, in seconds, for one of the connections that all workers share; one mostly becomes free much sooner."""

MAX_REDIRECTS: Final = 5
CONNECTIONS: Final = 8
"""Most connections to one host."""

REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
"""Statuses of an answer which say that the file is elsewhere."""

ABSENT: Final = frozenset((404, 410))
"""Statuses of an answer which say that a file is missing."""

FORBIDDEN: Final = frozenset((401, 403))
"""Statuses of an answer which say that a file may not be read."""

TRANSIENT: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses of an answer after which the same request may succeed later."""

_lock = threading.Lock()
_pools: dict[str | None, Any] = {}
_final: dict[str, str] = {}


def _reset() -> None:
    """Make a new lock, and forget all connections, in a forked process, which must not share them with its parent."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()
    _final.clear()


os.register_at_fork(after_in_child=_reset)


@contextlib.contextmanager
def request(
    address: str, asked: Mapping[str, str], *, url: str | None = None, anew: bool = True, remember: bool = False
) -> Iterator[urllib3.BaseHTTPResponse]:
    """Make one request, follow redirects, and give the answer before its body is read.

    Parameters
    ----------
    address
        The address that is read.
    asked
        Headers of the request that say which part of the file is wanted.
    url
        The URL that the address, which messages show, stands for; None for that of `url_of`.
    anew
        Whether to follow redirects from the start; if not, the request goes to the URL that was remembered.
    remember
        Whether to remember the URL to which redirects led.

    Raises
    ------
    TransientError
        No answer came in time, or its status is one of `TRANSIENT`.
    RemoteError
        The certificate is not trusted, there are too many redirects, or one leads from ``https`` to ``http``.

    """
    require("urllib3", "remote", "addresses")
    import urllib3

    from dovetail.io.remote import paced

    url = (None if anew else _final.get(address)) or url or url_of(address)
    token = paced.allowance.set(paced.Allowance(READ_TIMEOUT_S, LEAST_BYTES_PER_S))
    response = None
    try:
        with logged_without_secrets():
            response, final = _redirected(address, url, asked)
        _follow(address, url, final, response.status, anew=anew, remember=remember)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RemoteError(f"the server of {address} compresses its answers", "the file as it is")
        if response.status in TRANSIENT:
            raise TransientError(f"status {response.status}", _pause(response.headers.get("Retry-After")))
        yield response
    except urllib3.exceptions.HTTPError as error:
        raise _translated(error, address) from None  # the original text can contain a signed address
    finally:
        paced.allowance.reset(token)
        if response is not None:
            _give_back(response)


def _redirected(address: str, url: str, asked: Mapping[str, str]) -> tuple[urllib3.BaseHTTPResponse, str]:
    """Make a request, and again where redirects lead; give the answer that is no redirect, and its URL.

    Credentials are sent on only to the same server.
    """
    own = credentials.headers_for(url)
    for _ in range(MAX_REDIRECTS + 1):
        response = _single(url, {**own, **asked})
        place = response.headers.get("Location")
        if response.status not in REDIRECTS or not place:
            return response, url
        response.close()  # its body may be long
        response.release_conn()
        target = _target(address, url, place)
        if urlsplit(target)[:2] != urlsplit(url)[:2]:
            own = {}
        url = target
    raise RemoteError(f"{address} redirects more than {MAX_REDIRECTS} times", "a file", "check the address")


def _single(url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
    import urllib3

    from dovetail.io.remote import paced

    allowed = paced.allowance.get()
    return _pool(url).request(
        "GET",
        url,
        headers={
            "Accept-Encoding": "identity",
            "User-Agent": f"dovetail/{importlib.metadata.version('dovetail')}",
            **headers,
        },
        redirect=False,
        retries=urllib3.Retry(total=None, connect=0, read=0, redirect=0, status=0, other=0),
        timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, max(0.001, allowed.left_s)), read=READ_TIMEOUT_S),
        pool_timeout=POOL_TIMEOUT_S,
        preload_content=False,
        decode_content=False,
    )


def _target(address: str, url: str, place: str) -> str:
    """Compute where a redirect leads."""
    try:
        target = urljoin(url, place)
        parts = urlsplit(target)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise RemoteError(f"{address} is malformed, or redirects to a malformed address", "a server's address")
    if url.startswith("https:") and parts.scheme != "https":
        raise RemoteError(f"{address} redirects to an address that is not encrypted", "https")
    return target


def _follow(address: str, url: str, final: str, status: int, *, anew: bool, remember: bool) -> None:
    """Remember the URL to which redirects led, for the next request, and forget it when the server refuses it."""
    if not anew and address in _final and status in ABSENT | FORBIDDEN | {400}:
        with _lock:
            _final.pop(address, None)
        raise TransientError(f"status {status} from where the file was before")
    if remember and status in (200, 206):
        with _lock:
            if final != url:
                _final[address] = final
            elif url == url_of(address):  # the address is not redirected any more
                _final.pop(address, None)


def _give_back(response: urllib3.BaseHTTPResponse) -> None:
    """Keep a connection if the body was read to its end, and else close it, because the rest may be long."""
    if getattr(response, "length_remaining", None) != 0:
        response.close()
    response.release_conn()


def _pool(url: str) -> urllib3.PoolManager:
    """Give this process's connections for a URL: direct ones, or those through the proxy that the environment names."""
    import urllib3

    from dovetail.io.remote import paced

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
        pool.pool_classes_by_scheme = paced.POOLS
        return pool


def _translated(error: urllib3.exceptions.HTTPError, address: str) -> Exception:
    """Make our error for a failure of the connection, without quoting an address that could be signed."""
    from urllib3 import exceptions

    cause = getattr(error, "reason", None) or error
    if isinstance(cause, exceptions.SSLError) and "CERTIFICATE" in str(cause).upper():
        return RemoteError(
            f"the certificate of the server of {address} is not trusted",
            "a valid certificate",
            "set SSL_CERT_FILE to the certificates of your network, if it has its own",
        )
    if isinstance(error, exceptions.LocationValueError):
        return RemoteError(f"{address} is malformed, or redirects to a malformed address", "a server's address")
    words = {
        exceptions.NameResolutionError: "no such host",
        exceptions.NewConnectionError: "no connection",
        exceptions.ConnectTimeoutError: "no connection in time",
        exceptions.ReadTimeoutError: f"no answer in time, or less than {LEAST_BYTES_PER_S >> 10} KiB/s",
        exceptions.IncompleteRead: "the answer broke off",
        exceptions.ProtocolError: "the connection broke",
        exceptions.ProxyError: "the proxy does not answer",
        exceptions.SSLError: "the encrypted connection failed",
    }
    reason = next((text for kind, text in words.items() if isinstance(cause, kind)), type(cause).__name__)
    return TransientError(reason)


def url_of(address: str) -> str:
    """Give the URL that an address stands for: ``hf://`` is short for a path below ``HF_ENDPOINT``."""
    if not address.startswith("hf://"):
        return address
    name, revision, file = hub_parts(address)
    return f"{credentials.hub_endpoint()}/{name}/resolve/{revision}/{file}"


def read(response: urllib3.BaseHTTPResponse, size_bytes: int) -> bytes:
    """Read the bytes that have come, at most `size_bytes`, and wait only if there are none, to notice slow servers."""
    return response.read1(size_bytes, decode_content=False) or b""


def _pause(retry_after: str | None) -> float | None:
    """Read the pause in seconds that a server asks for in its ``Retry-After`` header; None if it asks for none."""
    if not retry_after:
        return None
    if re.fullmatch(r"[0-9]{1,9}", retry_after.strip()):
        return float(retry_after)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
