"""Range requests to a server on this machine: failures that may pass are tried again, others are refused."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.io.errors import ChangedFileError, CheckpointError, MissingFileError, RemoteError, UnsupportedError
from dovetail.io.remote import http_connection, retrying
from dovetail.io.remote.file import RemoteFile
from dovetail.io.remote.http_transport import fetch, open_file, read_small
from tests.server import Fault, Handler, Request, Site, serve

DATA = random.Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all pauses and time limits."""
    monkeypatch.setattr(retrying, "FIRST_DELAY_S", 0.001)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Serve a folder with one file."""
    (tmp_path / "file").write_bytes(DATA)
    with serve(tmp_path) as served:
        yield served


def get(file: RemoteFile, begin: int, end: int) -> bytes:
    """Read a range, and check that each byte comes once and in order."""
    got = bytearray()

    def write(position: int, data: bytes) -> None:
        assert begin + len(got) == position
        got.extend(data)

    fetch(file, begin, end, write)
    return bytes(got)


def opened(site: Site) -> RemoteFile:
    """Open the file."""
    return open_file(f"{site.address}/file", 1000)[0]


def test_open_and_read(site: Site) -> None:
    """One request gives size, version and first bytes; ranges are the file's; a whole file may be short."""
    file, head = open_file(f"{site.address}/file", 1000)
    assert (len(DATA), DATA[:1000]) == (file.size_bytes, head)
    assert 1 == len(site.requests)
    for begin, end in ((0, 1), (5, 5), (17, 299_999), (0, len(DATA))):
        assert DATA[begin:end] == get(file, begin, end)
    assert DATA == open_file(f"{site.address}/file", 2**20)[1]
    assert file.etag == site.requests[-2].headers["If-Range"]


def test_small_files(site: Site) -> None:
    """Whole files are read, cut after one byte more than the limit; a missing file gives None."""
    assert DATA == read_small(f"{site.address}/file", len(DATA))
    assert DATA[:11] == read_small(f"{site.address}/file", 10)
    assert read_small(f"{site.address}/other", 10) is None


def _busy(handler: Handler, request: Request) -> bool:
    handler.reply(503, b"later")
    return True


def _told_to_wait(handler: Handler, request: Request) -> bool:
    handler.reply(429, b"", {"Retry-After": "0"})
    return True


def _asked_for(handler: Handler, request: Request) -> tuple[bytes, int, int]:
    """Give the file, and the first and last byte asked for."""
    begin, end = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
    return (handler.site.root / request.path.lstrip("/")).read_bytes(), begin, end


def _cut(handler: Handler, request: Request) -> bool:
    """Send the head of the right answer and half of its body, and then close the connection."""
    data, begin, end = _asked_for(handler, request)
    body = data[begin : end + 1]
    handler.send_response(206)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{len(data)}")
    handler.send_header("ETag", request.headers.get("If-Range", '"x"'))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.close_connection = True
    return True


def _silent(handler: Handler, request: Request) -> bool:
    handler.close_connection = True
    return True


def _slow(handler: Handler, request: Request) -> bool:
    time.sleep(http_connection.READ_TIMEOUT_S + 1)
    return False


def _shifted(handler: Handler, request: Request) -> bool:
    data, etag = _asked_for(handler, request)[0], request.headers.get("If-Range", '"x"')
    handler.reply(206, data[1:11], {"Content-Range": f"bytes 1-10/{len(data)}", "ETag": etag})
    return True


def _short(handler: Handler, request: Request) -> bool:
    """Announce and send fewer bytes than were requested."""
    data, begin, end = _asked_for(handler, request)
    etag = request.headers.get("If-Range", '"x"')
    handler.reply(206, data[begin:end], {"Content-Range": f"bytes {begin}-{end}/{len(data)}", "ETag": etag})
    return True


FAULTS = {
    "status 503": _busy,
    "status 429": _told_to_wait,
    "the connection broke": _cut,
    "the connection broke)": _silent,
    "no answer in time": _slow,
    "bytes 1 to 11 came instead of": _shifted,
    "the server announced": _short,
}


@pytest.mark.parametrize("text", FAULTS)
def test_failures_that_pass(site: Site, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If every second answer fails, in each of the ways, the bytes are still right."""
    if FAULTS[text] is _slow:
        monkeypatch.setattr(http_connection, "READ_TIMEOUT_S", 2.0)
    file, fault = opened(site), FAULTS[text]
    site.fault = lambda handler, request: request.number % 2 == 1 and fault(handler, request)
    assert DATA[7:250_000] == get(file, 7, 250_000)
    assert len(site.requests) > 2


@pytest.mark.parametrize("text", [text for text in FAULTS if text != "no answer in time"])
def test_failures_that_stay(site: Site, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that does not pass ends after some attempts, with an error that says how to continue."""
    monkeypatch.setattr(retrying, "ATTEMPTS", 3)
    file = opened(site)
    site.fault = FAULTS[text]
    with pytest.raises(RemoteError) as caught:
        get(file, 7, 2000)
    assert f"{file.address} cannot be read ({text}" in str(caught.value)
    assert "after 3 attempts; expected an answer; check the network" in str(caught.value)
    assert "run the same command again to continue" in str(caught.value)
    assert 4 == len(site.requests)


def test_what_came_is_not_asked_for_again(site: Site) -> None:
    """After half an answer, only the rest is requested."""
    file, faults = opened(site), [_cut]
    site.fault = lambda handler, request: bool(faults) and faults.pop()(handler, request)
    assert DATA[100:1100] == get(file, 100, 1100)
    assert ["bytes=100-1099", "bytes=600-1099"] == [request.headers["Range"] for request in site.requests[1:]]


def test_a_long_pause_is_not_waited_for(site: Site) -> None:
    """A server that asks for a pause of an hour is given up at once."""
    file = opened(site)
    site.fault = lambda handler, request: handler.reply(503, b"", {"Retry-After": "3600"}) is None
    with pytest.raises(RemoteError, match=r"status 503\) after 1 attempt, and the server asks for a pause of 3600 s"):
        get(file, 0, 1)


def test_a_short_pause_is(site: Site) -> None:
    """A server that asks for a pause of a second gets it."""
    file, faults = opened(site), [1]

    def fault(handler: Handler, request: Request) -> bool:
        return bool(faults) and faults.pop() and handler.reply(429, b"", {"Retry-After": "1"}) is None

    site.fault, began = fault, time.monotonic()
    assert DATA[:5] == get(file, 0, 5)
    assert time.monotonic() - began >= 1


def test_changed_files(site: Site, tmp_path: Path) -> None:
    """Another version, a shorter file and a missing file are changes; the restored file is not."""
    file = opened(site)
    for change in (DATA[::-1], b"", None):
        (tmp_path / "file").unlink()
        if change is not None:
            (tmp_path / "file").write_bytes(change)
        with pytest.raises(ChangedFileError, match=r"/file (changed since it was opened|is gone)") as caught:
            get(file, 10, 20)
        assert "restore it and run the same command again to continue" in str(caught.value)
    (tmp_path / "file").write_bytes(DATA)
    assert DATA[10:20] == get(file, 10, 20)


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (lambda h, r: h.reply(200, DATA) is None, UnsupportedError, "status 200; expected status 206 and the part"),
        (lambda h, r: h.reply(404, b"") is None, MissingFileError, "there is no file at http"),
        (lambda h, r: h.reply(401, b"") is None, MissingFileError, "does not let http"),
        (lambda h, r: h.reply(403, b"") is None, MissingFileError, "user and password for the host into ~/.netrc"),
        (
            lambda h, r: h.reply(206, DATA[:1000], {"Content-Range": f"bytes 0-999/{len(DATA)}"}) is None,
            UnsupportedError,
            "tells neither ETag nor Last-Modified",
        ),
        (lambda h, r: h.reply(302, b"", {"Location": r.path}) is None, RemoteError, "redirects more than 5 times"),
        (
            lambda h, r: h.reply(302, b"", {"Location": "file:///etc/passwd"}) is None,
            RemoteError,
            "redirects to a malformed address",
        ),
        (lambda h, r: h.reply(206, b"x", {"Content-Encoding": "gzip"}) is None, RemoteError, "compresses its answers"),
    ],
)  # fmt: skip
def test_servers_that_are_refused(site: Site, fault: Fault, error: type[CheckpointError], text: str) -> None:
    """Failures that no further attempt can change are refused at once, each with its message."""
    site.fault = fault
    with pytest.raises(error) as caught:
        opened(site)
    assert error is type(caught.value)
    assert text in str(caught.value)
    assert len(site.requests) <= 6


def test_nobody_listens(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port without a server, and a host without an address, are reported in words."""
    monkeypatch.setattr(retrying, "ATTEMPTS", 2)
    with pytest.raises(RemoteError, match=r"cannot be read \(no connection\) after 2 attempts"):
        open_file("http://127.0.0.1:9/file", 10)
    with pytest.raises(RemoteError, match=r"cannot be read \(no such host\) after 2 attempts"):
        open_file("http://nowhere.invalid/file", 10)


def test_connections_are_kept(site: Site) -> None:
    """A hundred ranges need far fewer connections, and a failure leaks none."""
    file = opened(site)
    ports: set[int] = set()

    def fault(handler: Handler, request: Request) -> bool:
        ports.add(handler.client_address[1])
        return request.number % 10 == 1 and _busy(handler, request)

    site.fault = fault
    for begin in range(100):
        assert DATA[begin : begin + 9] == get(file, begin, begin + 9)
    assert len(ports) <= 25


def test_an_answer_without_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an endless body only the requested bytes are read; a very slow one is given up."""

    def endless(handler: Handler, request: Request) -> bool:
        handler.send_response(206)
        handler.send_header("ETag", '"x"')
        handler.send_header("Content-Range", "bytes 0-999/1000000000000")
        handler.end_headers()
        handler.close_connection = True
        for _ in range(1000):
            handler.wfile.write(bytes(2**16))
        return True

    site.fault = endless
    file, head = open_file(f"{site.address}/file", 1000)
    assert (10**12, bytes(1000)) == (file.size_bytes, head)

    def trickle(handler: Handler, request: Request) -> bool:
        handler.send_response(206)
        handler.send_header("ETag", '"x"')
        handler.send_header("Content-Range", "bytes 0-999/1000000000000")
        handler.end_headers()
        handler.close_connection = True
        for _ in range(1000):
            handler.wfile.write(b"x")
            time.sleep(0.05)
        return True

    monkeypatch.setattr(retrying, "ATTEMPTS", 1)
    monkeypatch.setattr(http_connection, "LEAST_BYTES_PER_S", 2**14)
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_S", 2.0)
    site.fault = trickle
    with pytest.raises(RemoteError, match=r"no answer in time, or less than 16 KiB/s"):
        get(file, 0, 1000)


def test_redirects(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect is remembered, and followed again once it has expired. The hub's token is sent to the hub alone,
    and no message has a signature.
    """
    model = tmp_path / "org" / "model"
    model.mkdir(parents=True)
    (model / "file").write_bytes(DATA)
    with serve(tmp_path) as store, serve(tmp_path, redirect=f"{store.address}/org", token="secret") as hub:
        hub.redirect = store.address
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", "secret")
        address = "hf://org/model@" + "0" * 40 + "/file"
        file, _ = open_file(address, 10)
        assert DATA[5:50] == get(file, 5, 50)
        assert ["Bearer secret"] == [request.headers.get("Authorization") for request in hub.requests]
        assert [None, None] == [request.headers.get("Authorization") for request in store.requests]
        expired = [True]
        store.fault = lambda handler, request: bool(expired) and expired.pop() and handler.reply(403, b"") is None
        assert DATA[5:50] == get(file, 5, 50)
        assert 2 == len(hub.requests)
        store.fault = lambda handler, request: handler.reply(500, b"") is None
        with pytest.raises(RemoteError) as caught:
            get(file, 5, 50)
        assert "secret" not in str(caught.value)
        assert address in str(caught.value)


def test_netrc(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user and password for a host come from ~/.netrc."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    opened(site)
    assert "Basic bWU6c2VjcmV0" == site.requests[0].headers["Authorization"]


def test_proxies(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy in the environment is used, with its password, and NO_PROXY is respected."""
    monkeypatch.setenv("http_proxy", site.address.replace("//", "//me:secret@"))
    monkeypatch.setenv("no_proxy", "")
    seen: list[Request] = []

    def fault(handler: Handler, request: Request) -> bool:
        seen.append(request)
        handler.send_file(site.root / "file")
        return True

    site.fault = fault
    file, _ = open_file("http://model.invalid/file", 10)
    assert ("http://model.invalid/file", len(DATA)) == (seen[0].path, file.size_bytes)
    assert "Basic bWU6c2VjcmV0" == seen[0].headers["Proxy-Authorization"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    opened(site)
    assert "/file" == seen[1].path


def test_a_redirect_is_followed_anew_when_a_file_is_opened(site: Site) -> None:
    """If an address leads to another file than before, opening it again in the same process gives the new file."""
    (site.root / "second").write_bytes(DATA[::-1])
    target = ["file"]

    def redirect(handler: Handler, request: Request) -> bool:
        if request.name != "latest":
            return False
        handler.reply(302, b"", {"Location": f"{site.address}/{target[0]}"})
        return True

    site.fault = redirect
    first = open_file(f"{site.address}/latest", 10)[0]
    assert DATA[5:50] == get(first, 5, 50)
    target[0] = "second"
    second, head = open_file(f"{site.address}/latest", 10)
    assert DATA[::-1][:10] == head
    assert DATA[::-1][5:50] == get(second, 5, 50)
    with pytest.raises(ChangedFileError):
        get(first, 5, 50)
