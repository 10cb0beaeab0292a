"""A small HTTP server on this machine: folders by range requests, a hub, and failures on demand."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The commit of every model on the hub."""


@dataclass(frozen=True)
class Request:
    """One request, as the server saw it."""

    method: str
    path: str
    headers: Mapping[str, str]
    number: int
    """How many came before it."""

    @property
    def name(self) -> str:
        """Name of the file asked for."""
        return self.path.rsplit("/", 1)[-1]


Fault = Callable[["Handler", Request], bool]
"""Answers a request in place of the server, and says whether it did."""


@dataclass
class Site:
    """What a server serves, and what it has seen."""

    root: Path
    """The folder that is served; ``ORG/NAME`` in it are the hub's models."""
    fault: Fault | None = None
    """What goes wrong."""
    etags: dict[str, str] = field(default_factory=dict)
    """ETags by file name, where they are not those of the content."""
    redirect: str | None = None
    """Where the hub sends whoever wants a file; None to send it itself."""
    token: str | None = None
    """What the hub wants to see before it tells anything."""
    requests: list[Request] = field(default_factory=list)
    address: str = ""
    """``http://HOST:PORT``."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, name: str) -> list[Request]:
        """Give the requests for a file."""
        return [request for request in self.requests if request.name == name]


@functools.lru_cache
def _content_hash(path: Path, mtime_ns: int, size_bytes: int) -> str:
    """Give a file's ETag, which is that of its content: a file that is put back has its old one again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    site: Site

    def log_message(self, *arguments: Any) -> None:
        """Be silent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        site = self.site
        with site.lock:
            request = Request(
                self.command,
                self.path,
                {name.title(): value for name, value in self.headers.items()},
                len(site.requests),
            )
            site.requests.append(request)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if site.fault is not None and site.fault(self, request):
                return
            self._answer(unquote(urlsplit(self.path).path))

    def _answer(self, path: str) -> None:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._tell_model(found.group(1), found.group(2))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found.group(1), found.group(3))
        else:
            self.send_file(self.site.root / path.lstrip("/"))

    def _allowed(self) -> bool:
        token = self.site.token
        if token is None or self.headers.get("Authorization") == f"Bearer {token}":
            return True
        self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
        return False

    def _tell_model(self, name: str, revision: str | None) -> None:
        if not self._allowed():
            return
        folder = self.site.root / name
        if not folder.is_dir():
            self.reply(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", COMMIT):
            self.reply(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
        else:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            siblings = [
                {"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size} for path in files
            ]
            body = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            self.reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, file: str) -> None:
        if not self._allowed():
            return
        path = self.site.root / name / file
        if not path.is_file():
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif self.site.redirect and self.command == "GET":
            self.reply(302, b"", {"Location": f"{self.site.redirect}/{name}/{file}?signature=secret"})
        else:
            self.send_file(path, {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(path.stat().st_size)})

    def send_file(self, path: Path, headers: Mapping[str, str] | None = None) -> None:
        """Send a file, or the part of it that was asked for."""
        if not path.is_file():
            self.reply(404, b"not found")
            return
        status = path.stat()
        size = status.st_size
        etag = self.site.etags.get(path.name, f'"{_content_hash(path, status.st_mtime_ns, size)}"')
        headers = {"ETag": etag, "Accept-Ranges": "bytes", **(headers or {})}
        if last := re.fullmatch(r"bytes=-(\d+)", self.headers.get("Range", "")):
            self.headers.replace_header("Range", f"bytes={max(0, size - int(last.group(1)))}-")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or self.headers.get("If-Range", etag) != etag:
            self.reply(200, path.read_bytes(), headers)
            return
        begin, end = int(wanted.group(1)), min(size, int(wanted.group(2) or size) + 1)
        if begin >= size:
            self.reply(416, b"", {"Content-Range": f"bytes */{size}", **headers})
            return
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(end - begin)
        self.reply(206, data, {"Content-Range": f"bytes {begin}-{end - 1}/{size}", **headers})

    def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer; headers given replace those that it would have."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent about clients that hang up."""


@contextlib.contextmanager
def serve(root: Path, **options: Any) -> Iterator[Site]:
    """Serve a folder until the end of the block."""
    site = Site(root, **options)
    server = _Server(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
