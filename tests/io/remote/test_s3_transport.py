"""Object stores, through fsspec and s3fs, against a small one on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from botocore import retryhandler

from dovetail.engine import merge
from dovetail.io.errors import ChangedFileError, MissingFileError, RemoteError
from dovetail.io.opening import read_checkpoint
from dovetail.io.remote import retrying, s3_transport, side_files
from tests.checkpoints import cabs_recipe, folder_bytes, llama_tensors
from tests.engine.conftest import Family, family  # noqa: F401  a fixture
from tests.io.zarr_files import read_bytes, write_group, write_t5x
from tests.server import Handler, Request, Site, serve


def answer(handler: Handler, request: Request) -> bool:
    """Answer as an object store does."""
    parts = urlsplit(request.path)
    query, path = parse_qs(parts.query), handler.site.root / unquote(parts.path).lstrip("/")
    if "list-type" in query:
        prefix = query.get("prefix", [""])[0]
        found = sorted(item for item in path.rglob("*") if item.is_file())
        keys = [(item.relative_to(path).as_posix(), item) for item in found]
        contents = "".join(
            f"<Contents><Key>{key}</Key><Size>{item.stat().st_size}</Size><ETag>&quot;{etag_of(item)}&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, item in keys
            if key.startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()
        handler.reply(200, body, {"Content-Type": "application/xml"})
    elif not path.is_file():
        handler.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
    elif request.headers.get("If-Match", f'"{etag_of(path)}"').strip('"') != etag_of(path):
        handler.reply(412, b"<Error><Code>PreconditionFailed</Code><Message>x</Message></Error>")
    elif request.method == "HEAD":
        size = str(path.stat().st_size)
        headers = {"ETag": f'"{etag_of(path)}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        handler.reply(200, b"", {"Content-Length": size, **headers})
    else:
        handler.site.etags[path.name] = f'"{etag_of(path)}"'
        handler.send_file(path, {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})
    return True


def etag_of(path: Path) -> str:
    """Give the ETag of a file."""
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def store(family: Family, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:  # noqa: F811  a fixture
    """Serve the family in the bucket "models"."""
    (family.home / "www").mkdir()
    (family.home / "www" / "models").symlink_to(family.home)
    monkeypatch.setattr(retrying, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(retrying, "ATTEMPTS", 2)
    # botocore would wait for half a second, at random, before it asks again what was refused.
    monkeypatch.setattr(retryhandler, "delay_exponential", lambda base, growth_factor, attempts: 0.001)
    monkeypatch.setattr(side_files, "_fetched", {})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(family.home / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(family.home / "none"))
    with serve(family.home / "www", fault=answer) as site:
        monkeypatch.setenv("AWS_ENDPOINT_URL", site.address)
        s3_transport._store_of.cache_clear()
        s3_transport._thread.__dict__.clear()
        yield site
        s3_transport._store_of.cache_clear()


def test_the_same_bytes(family: Family, store: Site) -> None:  # noqa: F811  a fixture
    """Models in a bucket give the same output as local ones, side files included."""
    merge(family.recipe_path, family.out)
    recipe = cabs_recipe(
        family.home / "s3.yml",
        "s3://models/base/",  # type: ignore[arg-type]
        ["s3://models/math/model.safetensors", family.code],  # type: ignore[list-item]
    )
    merge(recipe, family.home / "remote")
    expected, actual = folder_bytes(family.out), folder_bytes(family.home / "remote")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert expected[name] == actual[name]


def test_zarr_in_a_bucket(family: Family, store: Site) -> None:  # noqa: F811  a fixture
    """Zarr in a bucket is read without credentials, with and without consolidated metadata, whole objects and parts of
    shards alike, even from a store that is busy at first and breaks off answers.
    """
    local = read_checkpoint(family.math)
    write_group(family.home / "whole.zarr", local, target=1 << 13)
    write_group(family.home / "shards.zarr", local, target=1 << 13, sharded=True)
    (family.home / "listed.zarr").mkdir()
    write_t5x(family.home / "listed.zarr", {"odd name %41": llama_tensors(0)["lm_head.weight"]})
    seen: set[tuple[str, str, str]] = set()

    def fault(handler: Handler, request: Request) -> bool:
        asked = request.method, request.path, request.headers.get("Range", "")
        if asked in seen:
            return answer(handler, request)
        seen.add(asked)
        handler.reply(503, b"<Error><Code>SlowDown</Code></Error>")
        return True

    store.fault = fault
    for name in ("whole.zarr", "shards.zarr"):
        found = read_checkpoint(f"s3://models/{name}")
        assert read_bytes(local) == read_bytes(found)
        found.check_unchanged()
    listed = read_checkpoint("s3://models/listed.zarr")
    assert ["odd name %41"] == list(listed.tensors)
    assert read_bytes(read_checkpoint(family.home / "listed.zarr")) == read_bytes(listed)
    listed.check_unchanged()
    (family.home / "listed.zarr" / "odd name %41" / ".zarray").write_text("{}")
    with pytest.raises(ChangedFileError, match="changed while it was in use"):
        listed.check_unchanged()


def test_changes_and_absence(family: Family, store: Site) -> None:  # noqa: F811  a fixture
    """Another version, a missing object and a store that does not answer are errors."""
    source = read_checkpoint("s3://models/math").tensors["lm_head.weight"].source
    path = family.math / "model.safetensors"
    good = path.read_bytes()
    before = source.read(0, 100).tobytes()
    path.write_bytes(good[:-1] + b"?")
    with pytest.raises(ChangedFileError, match=r"s3://models/math/model\.safetensors changed since it was opened"):
        source.read(100, 200)
    s3_transport._thread.__dict__.clear()
    with pytest.raises(ChangedFileError, match="it is now"):
        source.read(100, 200)
    path.write_bytes(good)
    assert before == source.read(0, 100).tobytes()
    with pytest.raises(MissingFileError, match="s3://models/nothing"):
        read_checkpoint("s3://models/nothing")
    with pytest.raises(MissingFileError, match=r"s3://models/nothing\.safetensors"):
        read_checkpoint("s3://models/nothing.safetensors")
    store.fault = lambda handler, request: handler.reply(403, b"<Error><Code>AccessDenied</Code></Error>") is None
    with pytest.raises(MissingFileError, match="does not let s3://models/math be read"):
        read_checkpoint("s3://models/math")


def test_a_store_that_does_not_answer(store: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be reached is named by its address, after some attempts."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3_transport._store_of.cache_clear()
    with pytest.raises(RemoteError, match="s3://models/math cannot be read"):
        read_checkpoint("s3://models/math")
