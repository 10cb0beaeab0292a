"""Servers that spread their bytes over hours, at any place of an answer, are given up in the time of a slow answer.

Every server here sends a good answer in the end, so that a client with more patience would have no error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import urllib3

from dovetail.io.errors import RemoteError
from dovetail.io.remote import http_connection, http_pages, paced, retrying
from dovetail.io.remote.http_objects import list_below
from dovetail.io.remote.http_transport import read_small
from tests.server import Fault, Handler, Request, Site, serve

DRIPS = 60
PATIENCE_S = 0.4
"""How long a client waits for a server that drips; one that answers has longer."""
PAUSE_S = 0.04
"""All drips together take six times as long as the client waits."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Serve a folder to a client that waits for a second, and asks once."""
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr(retrying, "ATTEMPTS", 1)
    with serve(tmp_path) as found:
        yield found


@pytest.fixture
def impatient(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Let the client wait for less than a second, where no answer is to come in time."""
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_S", PATIENCE_S)
    return site


def _dripped(before: bytes, drip: bytes, after: bytes) -> Fault:
    """Send a beginning, then drips, and then the rest."""

    def fault(handler: Handler, request: Request) -> bool:
        handler.close_connection = True
        handler.wfile.write(before)
        for _ in range(DRIPS):
            handler.wfile.write(drip)
            handler.wfile.flush()
            time.sleep(PAUSE_S)
        handler.wfile.write(after)
        return True

    return fault


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPPED: dict[str, Fault] = {
    "before the status": _dripped(b"", b"", ANSWER),
    "in the status": _dripped(b"HTTP/1.1 200 ", b"O", ANSWER[13:]),
    "between headers": _dripped(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", ANSWER[17:]),
    "in a header": _dripped(b"HTTP/1.1 200 OK\r\nA: ", b"b", b"\r\n" + ANSWER[17:]),
    "asks to go on": _dripped(b"", b"HTTP/1.1 100 Continue\r\n\r\n", ANSWER),
    "in the body": _dripped(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n", b"b", b""),
    "in the size of a chunk": _dripped(CHUNKED + b"4;", b"x", b"\r\ngood\r\n0\r\n\r\n"),
    "after the last chunk": _dripped(CHUNKED + b"4\r\ngood\r\n0\r\n", b"A: b\r\n", b"\r\n"),
}


@pytest.mark.parametrize("case", DRIPPED)
def test_drips(impatient: Site, case: str) -> None:
    """Wherever in an answer a server begins to drip, all waits together count."""
    impatient.fault = DRIPPED[case]
    with pytest.raises(RemoteError, match=r"no answer in time, or less than 16 KiB/s\) after 1 attempt"):
        read_small(f"{impatient.address}/file", 1000)


def test_slow_redirects(impatient: Site) -> None:
    """Redirects that are each in time count together."""

    def fault(handler: Handler, request: Request) -> bool:
        time.sleep(0.6 * PATIENCE_S)
        if request.number < http_connection.MAX_REDIRECTS:
            handler.reply(302, b"", {"Location": f"/{request.number}"})
        else:
            handler.reply(200, b"good")
        return True

    impatient.fault = fault
    with pytest.raises(RemoteError, match="no answer in time"):
        read_small(f"{impatient.address}/file", 1000)


def test_redirects_with_endless_bodies(site: Site) -> None:
    """The body of a redirect is not read, however fast it comes."""
    sent = []

    def fault(handler: Handler, request: Request) -> bool:
        if request.path != "/file":
            return handler.reply(200, b"good") is None
        handler.close_connection = True
        handler.send_response(302)
        handler.send_header("Location", "/other")
        handler.end_headers()
        for _ in range(4_000):
            handler.wfile.write(bytes(2**18))
            sent.append(1)
        return True

    site.fault = fault
    assert b"good" == read_small(f"{site.address}/file", 1000)
    assert len(sent) < 4_000


def test_pages_of_folders(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are found through pages; links to elsewhere are not followed, and long or endless pages are refused."""
    pages = {
        "/z/": '<a href="../">up</a> <A HREF="a%20b/">b</A> <a class=x href="zarr.json?C=M">z</a> <a href="//h/z/x">',
        "/z/a%20b/": "<a href='/z/a%20b/c.0'> <a href=c.1> <a href='http://[::1/z/a/'> <a href='/z/'>",
    }
    site.fault = lambda handler, request: handler.reply(200, pages[request.path].encode()) is None
    assert ["a b/c.0", "a b/c.1", "zarr.json"] == list(list_below(f"{site.address}/z"))
    monkeypatch.setattr(http_pages, "MAX_PAGES", 50)
    site.fault = lambda handler, request: handler.reply(200, b'<a href="deeper/">') is None
    with pytest.raises(RemoteError, match="more than 50 folders below it"):
        list_below(f"{site.address}/z")
    monkeypatch.setattr(http_pages, "LONGEST_S", -1.0)
    with pytest.raises(RemoteError, match=r"the pages of .*/z take more than -0 minutes"):
        list_below(f"{site.address}/z")
    monkeypatch.setattr(http_pages, "LONGEST_S", 3_600.0)
    monkeypatch.setattr(http_pages, "MAX_PAGE_BYTES", 1000)
    site.fault = lambda handler, request: handler.reply(200, b"x" * 1001) is None
    with pytest.raises(RemoteError, match="is too large; expected at most 1000 bytes"):
        list_below(f"{site.address}/z")


def test_the_answer_of_a_proxy_counts_once(tmp_path: Path) -> None:
    """What was waited for a proxy's answer is not spent again when the connection through it is made."""
    began = time.monotonic()
    allowed = paced.Allowance(3_600.0, 1.0)
    token = paced.allowance.set(allowed)

    def slow(handler: Handler) -> None:
        time.sleep(0.2)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        handler.close_connection = True

    with serve(tmp_path) as proxy, patch.object(Handler, "do_CONNECT", slow, create=True):
        host, _, port = proxy.address.removeprefix("http://").partition(":")
        connection = paced.POOLS["https"].ConnectionCls(host, int(port), timeout=3_600.0)
        connection.set_tunnel("model.test", 443, scheme="http")
        try:
            with pytest.raises((OSError, urllib3.exceptions.HTTPError)):
                connection.connect()
        finally:
            connection.close()
            paced.allowance.reset(token)
    assert 0.2 <= allowed.waited_s <= time.monotonic() - began
