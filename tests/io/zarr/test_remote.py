"""Zarr over HTTP and on hubs: tried again like any remote checkpoint, and no answer is taken for what it is not."""

from __future__ import annotations

import hashlib
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from dovetail.io import read_checkpoint
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import ChangedFileError, CheckpointError, MissingFileError, RemoteError, UnsupportedError
from dovetail.io.remote import fsspec_objects, http_connection, hub, retrying
from tests.io.samples import random_array, some_tensors, write_file
from tests.io.zarr_files import read_bytes, write_arrays, write_group, write_t5x
from tests.server import COMMIT, Fault, Handler, Request, Site, serve


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause for a moment only; begin without commits and redirects known."""
    monkeypatch.setattr(retrying, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(http_connection, "_final", {})
    monkeypatch.setattr(hub, "_known", {})


@pytest.fixture
def local(tmp_path: Path) -> Checkpoint:
    """Write a checkpoint as Zarr, with whole objects and with shards."""
    tensors = {**some_tensors(), "wide": random_array(0, "F32", (40, 12))}
    found = read_checkpoint(write_file(tmp_path / "a.safetensors", tensors))
    write_group(tmp_path / "whole.zarr", found, target=64)
    zarr.create_group(tmp_path / "shards.zarr")
    parts: dict[str, Any] = {"chunks": lambda _: (5, 4), "shards": (20, 8)}
    write_arrays(tmp_path / "shards.zarr", {"wide": tensors["wide"]}, **parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that version 3 does not have it
        zarr.consolidate_metadata(str(tmp_path / "shards.zarr"))
    return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Serve the folder of everything."""
    with serve(tmp_path) as served:
        yield served


def first_time(fault: Fault) -> Fault:
    """Let something go wrong once for every request that is not like an earlier one."""
    seen: set[tuple[str, str]] = set()

    def once(handler: Handler, request: Request) -> bool:
        asked = request.path, request.headers.get("Range", "")
        if asked in seen:
            return False
        seen.add(asked)
        return fault(handler, request)

    return once


def _right(handler: Handler, request: Request) -> tuple[int, dict[str, str], bytes] | None:
    """Give the right answer to a request for an object or a part of it, if there is such an object."""
    path = handler.site.root / request.path.lstrip("/")
    if not path.is_file():
        return None
    data = path.read_bytes()
    etag = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if wanted is None:
        return 200, etag, data
    first, last = wanted.groups()
    begin = int(first) if first else max(0, len(data) - int(last))
    end = min(len(data), int(last) + 1) if first else len(data)
    return 206, {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}", **etag}, data[begin:end]


def _busy(handler: Handler, request: Request) -> bool:
    handler.reply(503, b"later")
    return True


def _silent(handler: Handler, request: Request) -> bool:
    handler.close_connection = True
    return True


def _cut(handler: Handler, request: Request) -> bool:
    """Send the right head and half of the body, then hang up."""
    if (right := _right(handler, request)) is None:
        return False
    status, headers, body = right
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True
    return True


def _announced(handler: Handler, request: Request) -> bool:
    """Announce and send a byte less of a part than is said to come."""
    if (right := _right(handler, request)) is None or right[0] != 206:
        return False
    handler.reply(206, right[2][:-1], right[1])
    return True


def _shifted(handler: Handler, request: Request) -> bool:
    """Send another part than the one asked for."""
    if (right := _right(handler, request)) is None or right[0] != 206:
        return False
    handler.reply(206, b"xx", {**right[1], "Content-Range": "bytes 1-2/1000"})
    return True


@pytest.mark.parametrize("fault", [_busy, _silent, _cut, _announced, _shifted])
@pytest.mark.parametrize("name", ["whole.zarr", "shards.zarr"])
def test_failures_that_pass(local: Checkpoint, site: Site, name: str, fault: Fault) -> None:
    """Whatever goes wrong with every first request, whole objects and parts of shards come out right in the end."""
    site.fault = first_time(fault)
    found = read_checkpoint(f"{site.address}/{name}")
    assert read_bytes(found).items() <= read_bytes(local).items()
    assert "wide" in found.tensors
    found.check_unchanged()


def test_a_server_that_stays_busy(local: Checkpoint, site: Site) -> None:
    """It is a server that cannot be read, not a checkpoint that is missing; attempts and the object are told."""
    site.fault = _busy
    with pytest.raises(RemoteError, match=r"/whole\.zarr/zarr\.json cannot be read \(status 503\) after 6 attempts"):
        read_checkpoint(f"{site.address}/whole.zarr")


def test_chunks_that_are_not_there(tmp_path: Path, site: Site) -> None:
    """A chunk that is not there is the fill value; one that may not be read is an error, and never zeros."""
    array = random_array(0, "F32", (4, 6))
    write_arrays(tmp_path / "a.zarr", {"a": array}, chunks=lambda _: (2, 6), zarr_format=2)
    (tmp_path / "a.zarr" / "a" / "1.0").unlink()
    (tmp_path / "a.zarr" / ".zmetadata").write_text(
        '{"metadata": {"a/.zarray": ' + (tmp_path / "a.zarr" / "a" / ".zarray").read_text() + "}}"
    )
    source = read_checkpoint(f"{site.address}/a.zarr").tensors["a"].source
    assert array[:2].tobytes() + bytes(48) == source.read(0, 24).tobytes()
    for status in (401, 403):
        site.fault = lambda handler, request, status=status: handler.reply(status, b"") is None
        with pytest.raises(MissingFileError, match=f"does not let .*/a/1.0 be read .status {status}"):
            source.read(12, 24)


def _whole(handler: Handler, request: Request) -> bool:
    """Send the whole object where a part was asked for."""
    if request.headers.get("Range", "bytes=-").startswith(("bytes=-", "bytes=0-0")):
        return False
    handler.reply(200, b"x" * 1000)
    return True


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (_shifted, RemoteError, r"bytes 1 to 3 came instead of .*after 6 attempts"),
        (_whole, UnsupportedError, "with status 200; expected status 206 and the part"),
    ],
)
def test_parts_that_are_not_what_was_asked_for(
    local: Checkpoint, site: Site, fault: Fault, error: type[CheckpointError], text: str
) -> None:
    """A part of a shard is taken only if it is the very part."""
    found = read_checkpoint(f"{site.address}/shards.zarr")
    site.fault = fault
    info = found.tensors["wide"]
    with pytest.raises(error, match=text):
        info.source.read(0, info.length)


def test_servers_that_cannot_count_from_the_end(local: Checkpoint, site: Site) -> None:
    """Where a server ignores a range from the end, as it may, the index of a shard is asked for by its place."""

    def ignore(handler: Handler, request: Request) -> bool:
        if not request.headers.get("Range", "").startswith("bytes=-"):
            return False
        handler.reply(200, (site.root / request.path.lstrip("/")).read_bytes())
        return True

    site.fault = ignore
    found = read_checkpoint(f"{site.address}/shards.zarr")
    assert read_bytes(local)["wide"] == read_bytes(found)["wide"]


def test_a_shard_that_is_shorter_than_its_index_says(local: Checkpoint, site: Site, tmp_path: Path) -> None:
    """A shard that was cut short on the server is a damaged chunk, as on a disk."""
    for path in (tmp_path / "shards.zarr" / "wide" / "c").rglob("[0-9]"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:30])
    found = read_checkpoint(f"{site.address}/shards.zarr")
    info = found.tensors["wide"]
    with pytest.raises(CheckpointError, match="cannot be decoded"):
        info.source.read(0, info.length)


def test_servers_without_etags(local: Checkpoint, site: Site, tmp_path: Path) -> None:
    """Where a server tells no ETag, a change is known by Last-Modified, also where the server knows no ranges."""
    changed = ["Thu, 01 Jan 2026 00:00:00 GMT"]

    def plain(handler: Handler, request: Request) -> bool:
        path = tmp_path / request.path.lstrip("/")
        if path.is_file():
            handler.reply(200, path.read_bytes(), {"Last-Modified": changed[0]})
        else:
            handler.reply(404, b"")
        return True

    site.fault = plain
    found = read_checkpoint(f"{site.address}/whole.zarr")
    assert read_bytes(local) == read_bytes(found)
    found.check_unchanged()
    changed[0] = "Fri, 02 Jan 2026 00:00:00 GMT"
    with pytest.raises(ChangedFileError, match="changed while it was in use"):
        found.check_unchanged()


def test_a_hub(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zarr within a model on a hub is read with the token, by the commit, whether its arrays are listed or not."""
    tensors = {"a": random_array(0, "F32", (5, 6)), "b.c": random_array(1, "BF16", (4,))}
    write_t5x(tmp_path / "org" / "name" / "deep" / "model.zarr", tensors)
    write_t5x(tmp_path / "org" / "model.zarr", tensors)
    site.token = "secret"
    monkeypatch.setenv("HF_ENDPOINT", site.address)
    monkeypatch.setenv("HF_TOKEN", "secret")
    for asked, pinned in (
        ("hf://org/name/deep/model.zarr/", f"hf://org/name@{COMMIT}/deep/model.zarr"),
        ("hf://org/name@main/deep/model.zarr", f"hf://org/name@{COMMIT}/deep/model.zarr"),
        ("hf://org/model.zarr", f"hf://org/model.zarr@{COMMIT}"),
    ):
        found = read_checkpoint(asked)
        assert pinned == found.path
        assert {name: value.tobytes() for name, value in tensors.items()} == {
            name: data for name, (_, _, data) in read_bytes(found).items()
        }
        assert found.files == read_checkpoint(pinned).files
    site.token = "another"
    with pytest.raises(MissingFileError, match=r"does not let hf://.* be read"):
        found.check_unchanged()


class _CutStore:
    """Stands for a store of fsspec that sends too little at first, and raises what has secrets in its text."""

    protocol = "cut"
    data = bytes(range(100))

    def __init__(self) -> None:
        self.failures: list[Exception | int] = []

    def cat_file(self, path: str, start: int, end: int | None) -> bytes:
        found = self.data[start:end]
        failure = self.failures.pop() if self.failures else len(found)
        if isinstance(failure, Exception):
            raise failure
        return found[:failure]

    def info(self, path: str) -> dict[str, int]:
        return {"size": len(self.data)}


@pytest.mark.parametrize(("begin", "end"), [(10, 50), (90, 120), (-30, None), (-200, None)])
def test_other_stores(monkeypatch: pytest.MonkeyPatch, begin: int, end: int | None) -> None:
    """Stores of other schemes are tried again too, and a part that comes short is asked for again."""
    store = _CutStore()
    monkeypatch.setattr(fsspec_objects, "_opened", lambda address: (store, "path"))
    store.failures = [3, TimeoutError(), 0, ConnectionResetError("https://host/?signature=secret")]
    assert store.data[begin:end] == fsspec_objects.read_part("cut://bucket/x", begin, end)
    assert [] == store.failures
    store.failures = [FileNotFoundError()]
    assert fsspec_objects.read_part("cut://bucket/x", begin, end) is None
    for failure, kind in (
        (PermissionError(), MissingFileError),
        (ValueError("https://host/?signature=secret"), RemoteError),
    ):
        store.failures = [failure]
        with pytest.raises(kind) as caught:
            fsspec_objects.read_part("cut://bucket/x", begin, end)
        assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_redirects_that_are_refused(local: Checkpoint, site: Site, tmp_path: Path) -> None:
    """Where a redirect to a signed address leads to a refusal, neither text nor traceback tells the signature."""

    def redirect(handler: Handler, request: Request) -> bool:
        if "signature" in request.path:
            handler.reply(403, b"")
        else:
            handler.reply(302, b"", {"Location": f"{site.address}{request.path}?signature=secret"})
        return True

    site.fault = redirect
    for name in ("whole.zarr", "a.safetensors", "folder"):
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(f"{site.address}/{name}")
        assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert any("signature=secret" in request.path for request in site.requests)


def test_what_libraries_log(
    local: Checkpoint, site: Site, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Libraries warn of odd headers with the address that they asked, which is shown without its signature."""
    caplog.set_level("DEBUG")

    def odd(handler: Handler, request: Request) -> bool:
        if "signature" in request.path:
            handler.wfile.write(b"HTTP/1.1 403 Forbidden\r\nno header\r\nContent-Length: 0\r\n\r\n")
        else:
            handler.reply(302, b"", {"Location": f"{site.address}{request.path}?signature=secret"})
        return True

    site.fault = odd
    with pytest.raises(CheckpointError):
        read_checkpoint(f"{site.address}/a.safetensors")
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("a.safetensors" in text for text in logged)
    assert not any("secret" in text for text in logged)
    assert "secret" not in "".join(capfd.readouterr())


def test_listing_by_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    """A server that shows its folders as pages of links is listed by these, although it is busy at first."""
    write_t5x(tmp_path / "listed.zarr", {"a": np.ones((3, 4), np.float32), "b.c": np.zeros(5, np.float32)})

    def pages(handler: Handler, request: Request) -> bool:
        folder = tmp_path / request.path.strip("/")
        if not folder.is_dir():
            return False
        links = [f'<a href="{path.name}{"/" * path.is_dir()}">x</a>' for path in sorted(folder.iterdir())]
        handler.reply(200, "".join(links).encode(), {"Content-Type": "text/html"})
        return True

    busy = first_time(_busy)
    site.fault = lambda handler, request: busy(handler, request) or pages(handler, request)
    assert {"a", "b.c"} == set(read_checkpoint(f"{site.address}/listed.zarr").tensors)
