"""Serve a folder by HTTP range requests, for benchmarks: ``python range_server.py FOLDER`` prints its address.

Some delay and a limit on speed stand for a network: ``--delay-ms`` before every answer, ``--mib-per-s`` for each
connection.
"""

from __future__ import annotations

import argparse
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STEP_BYTES = 1 << 18


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: Path
    delay_s: float
    bytes_per_s: float

    def log_message(self, *arguments: Any) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        path = self.folder / self.path.lstrip("/")
        if not path.is_file() or ".." in self.path:
            self._head(404, 0)
            return
        status = path.stat()
        begin, end = 0, status.st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        headers = {"ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"'}
        if wanted:
            begin, end = int(wanted.group(1)), min(end, int(wanted.group(2)) + 1)
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{status.st_size}"
        self._head(206 if wanted else 200, end - begin, headers)
        with path.open("rb") as file:
            while begin < end:
                started = time.monotonic()
                sent = self.connection.sendfile(file, begin, min(STEP_BYTES, end - begin))
                begin += sent
                time.sleep(max(0.0, sent / self.bytes_per_s - (time.monotonic() - started)))

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent about clients that hang up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--mib-per-s", type=float, default=float("inf"))
    args = parser.parse_args()
    settings = {"folder": args.folder, "delay_s": args.delay_ms / 1e3, "bytes_per_s": args.mib_per_s * 2**20}
    server = Server(("127.0.0.1", 0), type("FolderHandler", (Handler,), settings))
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
