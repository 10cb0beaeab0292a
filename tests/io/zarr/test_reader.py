"""Reading Zarr: any version, chunking, order, byte order and compression, from folders, zip files and addresses."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dask.array
import fsspec
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, TransposeCodec, ZstdCodec

import dovetail.io.zarr.zip as zarr_zip
from dovetail.io import open_checkpoint, read_checkpoint
from dovetail.io.errors import ChangedFileError, MissingFileError, UnsupportedError, ZarrError
from dovetail.io.zarr.chunk_pool import ChunkPool, sharing_chunks
from dovetail.io.zarr.chunk_pool import pool as chunk_pool
from tests.engine.kernels.cases import examples
from tests.io.samples import every_kind, random_array, some_tensors, write_file
from tests.io.zarr_files import read_bytes, write_arrays, write_group, write_t5x

LAYOUTS: dict[str, dict[str, Any]] = {
    "v2": {"zarr_format": 2},
    "v2, column-major": {"zarr_format": 2, "order": "F"},
    "v2, slash": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v2, raw": {"zarr_format": 2, "compressors": None},
    "v2, blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("zstd", 1)},
    "v2, gzip": {"zarr_format": 2, "compressors": numcodecs.GZip(1)},
    "v2, zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib(1)},
    "v2, bz2": {"zarr_format": 2, "compressors": numcodecs.BZ2(1)},
    "v2, lzma": {"zarr_format": 2, "compressors": numcodecs.LZMA()},
    "v2, lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
    "v2, zstd and shuffle": {"zarr_format": 2, "compressors": numcodecs.Zstd(1), "filters": [numcodecs.Shuffle(4)]},
    "v3": {},
    "v3, dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3, blosc": {"compressors": BloscCodec(cname="lz4", typesize=4)},
    "v3, gzip": {"compressors": GzipCodec(level=1)},
    "v3, big endian": {"serializer": BytesCodec(endian="big"), "compressors": ZstdCodec(level=1)},
    "v3, transposed": {"filters": [TransposeCodec(order=(2, 0, 1))]},
    "v3, numcodecs": {"compressors": {"name": "numcodecs.zlib", "configuration": {"level": 1}}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=examples(8))
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3), chunks=st.tuples(*[st.integers(1, 10)] * 3), seed=st.integers(0, 2**32)
)
def test_any_range_of_any_layout(
    tmp_path: Path, layout: str, shape: tuple[int, int, int], chunks: tuple[int, int, int], seed: int
) -> None:
    """Every range of the flattened tensor is what zarr-python reads, with a pool and without, little endian."""
    shutil.rmtree(tmp_path / "z", ignore_errors=True)
    random = np.random.default_rng(seed)
    array = random.integers(0, 2**32, shape, np.uint32)
    write_arrays(tmp_path / "z", {"a": array}, chunks=lambda _: chunks, **LAYOUTS[layout])
    source = read_checkpoint(tmp_path / "z").tensors["a"].source
    flat = array.reshape(-1)
    for limit in (0, 1 << 20):
        with sharing_chunks(ChunkPool(limit)):
            for start, stop in np.sort(random.integers(0, flat.size + 1, (8, 2)), axis=1):
                assert flat[start:stop].tobytes() == source.read(int(start), int(stop)).tobytes()


@pytest.mark.parametrize("inner", [(2, 3), (4, 6), (1, 1)])
def test_shards_of_others(tmp_path: Path, inner: tuple[int, int]) -> None:
    """A chunk within a shard is read alone; chunks and shards that are not there are the fill value."""
    array = random_array(0, "F32", (10, 13))
    write_arrays(tmp_path, {"a": array}, chunks=lambda _: inner, shards=(4, 6))
    sparse = zarr.create_array(
        str(tmp_path / "b"), shape=(10, 13), chunks=inner, shards=(4, 6), dtype="float32", fill_value=1.5
    )
    sparse[4, 7] = 2.0
    found = read_checkpoint(tmp_path).tensors
    assert array.tobytes() == found["a"].source.read(0, 130).tobytes()
    expected = np.full((10, 13), 1.5, np.float32)
    expected[4, 7] = 2.0
    assert expected.tobytes() == found["b"].source.read(0, 130).tobytes()


def test_every_dtype_of_version_3(tmp_path: Path) -> None:
    """What zarr-python itself writes is read bit for bit, scalars and empty tensors included."""
    tensors = every_kind()
    write_arrays(tmp_path / "z", tensors)
    expected = read_bytes(read_checkpoint(write_file(tmp_path / "a.safetensors", tensors)))
    assert expected == read_bytes(read_checkpoint(tmp_path / "z"))


def test_big_endian_version_2(tmp_path: Path) -> None:
    """Numbers of any size come out little endian."""
    kinds = ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8")
    tensors = {kind: np.arange(30).astype(f">{kind}").reshape(5, 6) for kind in kinds}
    write_arrays(tmp_path, tensors, zarr_format=2, chunks=lambda _: (2, 4))
    for name, info in read_checkpoint(tmp_path).tensors.items():
        assert tensors[name].astype(f"<{name}").tobytes() == info.source.read(0, 30).tobytes()


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc", "bz2"])
def test_t5x(tmp_path: Path, codec: str) -> None:
    """Arrays of bfloat16 in version 2, as tensorstore writes them for T5X, with no group around them."""
    tensors = {
        "target.encoder.layers_0.kernel": random_array(0, "BF16", (50, 30)),
        "target/decoder/logits": random_array(1, "BF16", (41, 24, 3)),
        "target.scale": random_array(2, "F32", (7,)),
    }
    checkpoint = read_checkpoint(write_t5x(tmp_path, tensors, codec=codec))
    assert {name.replace("/", "."): (tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()} == {
        name: (shape, data) for name, (_, shape, data) in read_bytes(checkpoint).items()
    }
    assert {"BF16", "F32"} == {info.dtype.name for info in checkpoint.tensors.values()}


def test_dask_over_a_virtual_store(tmp_path: Path) -> None:
    """Any checkpoint opens with `zarr.open_group`, and dask computes over its arrays chunk by chunk."""
    tensor = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    write_file(tmp_path / "a.safetensors", {"w": tensor})
    write_arrays(tmp_path / "z", {"w": tensor}, chunks=lambda _: (70, 60))
    for path in (tmp_path / "a.safetensors", tmp_path / "z"):
        virtual = zarr.open_group(open_checkpoint(path).store, mode="r")
        mean = dask.array.from_zarr(virtual["w"]).mean().compute()
        assert pytest.approx(float(tensor.astype(np.float64).mean()), abs=1e-6) == float(mean)


def test_zip_files(tmp_path: Path) -> None:
    """A zip store is read in place, whether its members are compressed or not."""
    original = read_checkpoint(write_file(tmp_path / "a.safetensors", some_tensors()))
    write_group(tmp_path / "group", original, target=8)
    write_group(tmp_path / "shards", original, target=8, sharded=True)
    for folder in ("group", "shards"):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            path = tmp_path / f"{folder}-{method}.zip"
            with zipfile.ZipFile(path, "w", method) as archive:
                for file in sorted((tmp_path / folder).rglob("*")):
                    archive.write(file, file.relative_to(tmp_path / folder))
            found = read_checkpoint(path)
            assert read_bytes(original) == read_bytes(found)
            found.check_unchanged()
            os.utime(path)
            with pytest.raises(ChangedFileError):
                found.check_unchanged()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Serve a folder over HTTP, by a server that knows no ranges and lists nothing."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_addresses(tmp_path: Path, served: str) -> None:
    """The same bits over HTTP, from a file address and from memory; threads read at once."""
    original = read_checkpoint(write_file(tmp_path / "a.safetensors", some_tensors()))
    folder = write_group(tmp_path / "model.zarr", original, target=8)
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/model.zarr", recursive=True)
    try:
        for address in (f"{served}/model.zarr/", f"file://{folder}", "memory://model.zarr"):
            found = read_checkpoint(address)
            assert address.rstrip("/") == str(found.path)
            with ThreadPoolExecutor(4) as pool:
                assert [read_bytes(original)] * 4 == list(pool.map(read_bytes, [found] * 4))
            found.check_unchanged()
            pickle.loads(pickle.dumps(found)).check_unchanged()
    finally:
        memory.rm("/model.zarr", recursive=True)


def test_addresses_without_consolidated_metadata(tmp_path: Path) -> None:
    """Where objects can be listed, arrays are found as in a folder."""
    tensors = {"a.b": random_array(0, "F32", (5, 6)), "c": random_array(1, "BF16", (4,))}
    write_t5x(tmp_path / "t5x", tensors)
    found = read_checkpoint(f"file://{tmp_path}/t5x")
    assert {name: tensor.tobytes() for name, tensor in tensors.items()} == {
        name: data for name, (_, _, data) in read_bytes(found).items()
    }
    (tmp_path / "t5x" / "c" / ".zarray").write_text("{}")
    with pytest.raises(ChangedFileError, match="changed while it was in use"):
        found.check_unchanged()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("memory://nothing.zarr", "there is no checkpoint at memory://nothing.zarr"),
        ("s3://user:hunter2@bucket/a.zarr", "holds a user or a password"),
        ("https://host/a.zarr?token=hunter2", "has a query"),
        ("nosuch://host/a.zarr", "cannot be opened"),
        ("memory://a::memory://b", "a chain of file systems"),
    ],
)
def test_bad_addresses(address: str, text: str) -> None:
    """Each is refused with one sentence that gives no secret away."""
    with pytest.raises((MissingFileError, UnsupportedError)) as caught:
        read_checkpoint(address)
    assert text in str(caught.value)
    assert "hunter2" not in str(caught.value)


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        (lambda home: (home / "a" / "c.0.0").unlink(), "check"),
        (lambda home: (home / "a" / "c.0.1").rename(home / "a" / "c.7.7"), "check"),
        (lambda home: os.utime(home / "a" / "zarr.json"), "check"),
        (lambda home: (home / "a" / "c.0.0").write_bytes(b"x"), "read"),
        (lambda home: os.utime(home / "a" / "c.0.0"), "read"),
    ],
    ids=["removed", "renamed", "metadata", "rewritten", "touched"],
)
def test_changes_are_noticed(tmp_path: Path, change: Change, noticed: str) -> None:
    """A chunk that was written since is refused when read; one that came or went, with the next commit."""
    array = random_array(0, "F32", (4, 6))
    write_arrays(
        tmp_path, {"a": array}, chunks=lambda _: (2, 3), chunk_key_encoding={"name": "default", "separator": "."}
    )
    found = read_checkpoint(tmp_path)
    found.check_unchanged()
    chunk_pool().clear()
    time.sleep(0.02)  # the clock of file systems ticks slowly
    change(tmp_path)
    use = found.check_unchanged if noticed == "check" else partial(found.tensors["a"].source.read, 0, 24)
    with pytest.raises(ChangedFileError):
        use()
    assert found.files != read_checkpoint(tmp_path).files


def test_other_formats_are_named(tmp_path: Path) -> None:
    """What only looks like Zarr is refused by name."""
    (tmp_path / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="OCDBT"):
        read_checkpoint(tmp_path)
    (tmp_path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    with pytest.raises(MissingFileError, match="holds no Zarr array"):
        read_checkpoint(tmp_path)


def test_damaged_chunks(tmp_path: Path) -> None:
    """Whatever is wrong with a chunk, the error names it and its place."""
    original = read_checkpoint(write_file(tmp_path / "a.safetensors", {"a": random_array(0, "F32", (64,))}))
    for codec in ("zstd", "blosc", "none"):
        folder = write_group(tmp_path / codec, original, codec)
        chunk = folder / "a" / "c.0"
        sound = chunk.read_bytes()
        for place in {*range(0, len(sound), 7), len(sound) - 1}:
            chunk.write_bytes(bytes([*sound[:place], sound[place] ^ 64, *sound[place + 1 :]]))
            with pytest.raises(ZarrError, match=r"a/: chunk c\.0 cannot be decoded"):
                read_checkpoint(folder).tensors["a"].source.read(0, 64)
        for size in (0, 1, len(sound) - 1):
            chunk.write_bytes(sound[:size])
            with pytest.raises(ZarrError):
                read_checkpoint(folder).tensors["a"].source.read(0, 64)


def test_shards_that_lie_compressed_in_a_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all before a chunk would be decompressed for each chunk, the file is refused, and one without is read."""
    monkeypatch.setattr(zarr_zip, "_MOST_SKIPPED_BYTES", 10)
    array = random_array(0, "F32", (256,))
    folder = write_arrays(tmp_path / "shards", {"a": array}, chunks=lambda _: (16,), shards=(128,))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
        source = read_checkpoint(path).tensors["a"].source
        if method == zipfile.ZIP_STORED:
            assert 1024 == source.read(0, 256).size
        else:
            with pytest.raises(UnsupportedError, match="is compressed, and what is wanted of it begins at byte"):
                source.read(0, 256)
