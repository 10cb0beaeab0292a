"""Servers that lie about a checkpoint, and what must be said about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from dovetail.io.errors import CheckpointError, HeaderError, IndexFileError, RemoteError, UnsupportedError
from tests.server import Fault, Handler, Request

ETAG = {"ETag": '"x"'}


@dataclass(frozen=True, slots=True)
class ServerAttack:
    """One hostile server; whatever is asked for, it answers in its own way."""

    id: str
    """What is wrong with it, in a word or two."""
    answer: Fault
    """Its answer."""
    text: str
    """Part of the error's text."""
    error: type[CheckpointError] = RemoteError
    """The error."""


def _part(data: bytes, size_bytes: int | None = None) -> Fault:
    """Send the same bytes as the beginning of a file of any size."""

    def answer(handler: Handler, request: Request) -> bool:
        size = len(data) if size_bytes is None else size_bytes
        handler.reply(206, data, {"Content-Range": f"bytes 0-{len(data) - 1}/{size}", **ETAG})
        return True

    return answer


def _said(status: int, body: bytes, headers: dict[str, str]) -> Fault:
    return lambda handler, request: handler.reply(status, body, headers) is None


def _header(document: object, length: int | None = None) -> bytes:
    body = json.dumps(document).encode()
    return (len(body) if length is None else length).to_bytes(8, "little") + body


def _endless_header(handler: Handler, request: Request) -> bool:
    """Say that the header has 100 MB, and send zeros for ever."""
    handler.send_response(206)
    first = int(request.headers["Range"].removeprefix("bytes=").split("-")[0])
    last = min(2**40, int(request.headers["Range"].split("-")[1]))
    handler.send_header("Content-Range", f"bytes {first}-{last}/{2**40}")
    handler.send_header("ETag", '"x"')
    handler.end_headers()
    handler.close_connection = True
    handler.wfile.write((100_000_000).to_bytes(8, "little") if first == 0 else b"")
    while True:
        handler.wfile.write(bytes(2**20))


def _index(document: object) -> Fault:
    """Send an index in the place of any index, and no other file."""

    def answer(handler: Handler, request: Request) -> bool:
        if request.name == "model.safetensors.index.json":
            handler.reply(200, json.dumps(document).encode())
        else:
            handler.reply(404, b"")
        return True

    return answer


def _endless_index(handler: Handler, request: Request) -> bool:
    if request.name != "model.safetensors.index.json":
        handler.reply(404, b"")
        return True
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(bytes(2**20))


def _loop(handler: Handler, request: Request) -> bool:
    handler.reply(302, b"", {"Location": request.path + "x"})
    return True


_OUTSIDE = {"w": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}}
_PLAIN: Callable[[str], Fault] = lambda place: _index({"weight_map": {"w": place}})  # noqa: E731 - a row's shorthand

SERVER_ATTACKS = (
    ServerAttack("exabyte", _part(_header({}, 2**60).ljust(2**17), 2**62), "says its header is", HeaderError),
    ServerAttack("header beyond the file", _part(_header({}, 5000), 100), "bytes 0 to 10 came instead of 0 to 100"),
    ServerAttack("header longer than the file", _part(_header({}, 5000)), "is truncated", HeaderError),
    ServerAttack("tensor outside", _part(_header(_OUTSIDE)), "outside the file", HeaderError),
    ServerAttack("100 MB of zeros, and on", _endless_header, "is not JSON", HeaderError),
    ServerAttack("no size", _said(206, b"x", {"Content-Range": "bytes 0-0/*", **ETAG}), "'bytes 0-0/*'"),
    ServerAttack("no range", _said(206, b"x", ETAG), "calls the part it sends ''"),
    ServerAttack(
        "absurd range", _said(206, b"x", {"Content-Range": f"bytes 0-{10**30}/{10**31}", **ETAG}), "calls the part"
    ),
    ServerAttack("negative range", _said(206, b"x", {"Content-Range": "bytes -5-4/9", **ETAG}), "calls the part"),
    ServerAttack("escape in the ETag", _said(206, b"x", {"Content-Range": "bytes 0-0/1", "ETag": '"\x1b[31m"'}),
                 "neither ETag nor Last-Modified", UnsupportedError),
    ServerAttack("redirects for ever", _loop, "redirects more than 5 times"),
    ServerAttack("redirects to a file", _said(302, b"", {"Location": "file:///etc/passwd"}),
                 "redirects to a malformed address"),
    ServerAttack("redirects nowhere", _said(302, b"", {"Location": "http://"}), "redirects more than"),
    ServerAttack("endless index", _endless_index, "is too large", IndexFileError),
    ServerAttack("index leads out", _PLAIN("../../x.safetensors"), "in the same folder", IndexFileError),
    ServerAttack("index leads to a host", _PLAIN("http://h/x.safetensors"), "in the same folder", IndexFileError),
    ServerAttack("index of nothing", _index({"weight_map": {}}), "weight_map", IndexFileError),
    ServerAttack("page", _said(200, b"<html>", {"Content-Type": "text/html"}), "status 206", UnsupportedError),
    ServerAttack("bomb", _said(206, b"\x1f\x8b", {"Content-Encoding": "gzip", **ETAG}), "compresses its answers"),
)  # fmt: skip
