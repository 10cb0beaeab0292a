"""The Zarr store: parity with a memory store, key by key and range by range, and reading through zarr."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import zarr
import zarr.api.asynchronous
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.sync import _collect_aiterator, sync
from zarr.storage import MemoryStore

from dovetail.io import open_checkpoint, read_checkpoint
from dovetail.io.dtypes import DTYPES
from dovetail.io.formats.header import build_header
from dovetail.io.zarr.store import SafetensorsStore
from tests.io.samples import every_kind, random_array, some_tensors, write_file, write_shards

CHUNK_BYTES = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_file(tmp_path / "model.safetensors", some_tensors(), {"format": "pt"})
    return tmp_path


def memory_store_of(tensors: dict[str, np.ndarray], store: SafetensorsStore) -> MemoryStore:
    """Write the same tensors to a memory store through zarr, in chunks of the same shape."""
    memory = MemoryStore()
    group = zarr.create_group(memory, attributes={"safetensors_metadata": dict(store.checkpoint.metadata)})
    for name, array in tensors.items():
        info = store.checkpoint.tensors[name]
        created = group.create_array(
            name,
            shape=array.shape,
            chunks=store._grid(info).chunk_shape,
            dtype=array.dtype,
            compressors=None,
            fill_value=0,
            attributes={"safetensors_dtype": info.dtype.name},
            config={"write_empty_chunks": True},
        )
        created[...] = array
    return memory


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[SafetensorsStore, MemoryStore]:
    """A store of every dtype and shape, and a memory store to which zarr wrote the same."""
    tensors = every_kind()
    path = write_file(tmp_path_factory.mktemp("parity") / "model.safetensors", tensors, {"format": "pt"})
    store = SafetensorsStore(read_checkpoint(path), chunk_bytes=CHUNK_BYTES)
    return store, memory_store_of(tensors, store)


def test_same_keys(pair: tuple[SafetensorsStore, MemoryStore]) -> None:
    """Both stores list the same keys, from every prefix and in every folder."""
    store, memory = pair
    keys = sorted(sync(_collect_aiterator(memory.list())))
    assert keys == sorted(sync(_collect_aiterator(store.list())))
    parts = {key[:end] for key in keys for end in range(len(key) + 1)} | {"nothing", "F32.7/c/9", "F32.7/x", "/"}
    for prefix in [*sorted(parts)[::7], "", "F32.2x3x5/c/0/", "F32.2x3x5/c/0", "F32."]:
        expected = sync(_collect_aiterator(memory.list_prefix(prefix)))
        assert sorted(expected) == sorted(sync(_collect_aiterator(store.list_prefix(prefix))))
    for folder in {key.rpartition("/")[0] for key in keys} | {"F32.2x3x5/c", "F32.2x3x5/c/", "F32.", "nothing"}:
        expected = sync(_collect_aiterator(memory.list_dir(folder)))
        assert sorted(expected) == sorted(sync(_collect_aiterator(store.list_dir(folder))))


def test_same_bytes(pair: tuple[SafetensorsStore, MemoryStore]) -> None:
    """Each key holds the same value in both: the same bytes for chunks, the same meaning for documents."""
    store, memory = pair
    for key in sync(_collect_aiterator(memory.list())):
        defaults = {} if key == "zarr.json" else {"storage_transformers": []}
        expected, found = memory.get_sync(key).to_bytes(), store.get_sync(key).to_bytes()
        if key.endswith("zarr.json"):
            assert json.loads(expected) == {**defaults, **json.loads(found)}, key
        else:
            assert expected == found, key
        assert len(found) == sync(store.getsize(key))
        assert sync(store.exists(key))


def test_same_ranges(pair: tuple[SafetensorsStore, MemoryStore]) -> None:
    """Every kind of range of every chunk gives the same bytes in both."""
    store, memory = pair
    requests = [RangeByteRequest(a, b) for a in (0, 1, 5, 23, 30) for b in (0, 1, 7, 24, 99) if a <= b]
    requests += [OffsetByteRequest(offset) for offset in (0, 1, 11, 24, 50)]
    for key in sync(_collect_aiterator(memory.list())):
        if key.endswith("zarr.json"):
            continue
        size = sync(memory.getsize(key))
        suffixes = [SuffixByteRequest(length) for length in (0, 1, 3, size) if length <= size]
        for request in requests + suffixes:
            expected = memory.get_sync(key, byte_range=request).to_bytes()
            assert expected == store.get_sync(key, byte_range=request).to_bytes(), (key, request)
        assert memory.get_sync(key).to_bytes() == store.get_sync(key, byte_range=SuffixByteRequest(size + 3)).to_bytes()


@pytest.mark.parametrize("chunk_bytes", [1, 7, 24, 4 * 2**20])
def test_arrays_read_through_zarr(tmp_path: Path, chunk_bytes: int) -> None:
    """Every dtype and shape, 0-d and empty ones and misaligned ones included, reads bit for bit, whole and sliced."""
    tensors = every_kind()
    path = write_file(tmp_path / "model.safetensors", tensors)
    group = zarr.open_group(SafetensorsStore(read_checkpoint(path), chunk_bytes=chunk_bytes), mode="r")
    assert set(tensors) == set(group.array_keys())
    for name, expected in tensors.items():
        array = group[name]
        assert (expected.shape, expected.dtype) == (array.shape, array.dtype)
        assert expected.tobytes() == np.asarray(array[...]).tobytes()
        if expected.ndim:
            assert expected[1:3].tobytes() == np.asarray(array[1:3]).tobytes()


def test_misaligned_tensors(tmp_path: Path) -> None:
    """A tensor that begins at an odd byte of its file, as the format allows, reads like any other."""
    header = build_header([("flag", DTYPES["U8"], (1,)), ("w", DTYPES["F32"], (3,))])
    path = tmp_path / "odd.safetensors"
    path.write_bytes(header + b"\x07" + np.array([1, 2, 3], np.float32).tobytes())
    assert [1.0, 2.0, 3.0] == open_checkpoint(path)["w"][:].tolist()


def test_open_checkpoint(tmp_path: Path) -> None:
    """The public function opens a sharded folder as a read-only group whose attributes tell what zarr cannot."""
    write_shards(tmp_path, {"a": random_array(0, "F8_E4M3", (3, 4))}, {"b": random_array(1, "I64", (5,))})
    group = open_checkpoint(tmp_path)
    assert ["a", "b"] == sorted(group.array_keys())
    assert "F8_E4M3" == group["a"].attrs["safetensors_dtype"]
    assert "float8_e4m3fn" == group["a"].metadata.to_dict()["data_type"]
    assert group["b"].metadata.dimension_names is None
    assert group.read_only
    assert {"a", "b"} == {name for name, _ in group.members()}
    assert "(3, 4)" in str(group["a"].info)
    with pytest.raises(ValueError, match="read-only"):
        group["b"][0] = 1
    with pytest.raises(KeyError):
        group["c"]


def test_asynchronous_interface(folder: Path) -> None:
    """The group opens and reads through zarr's asynchronous interface."""

    async def read() -> np.ndarray:
        store = SafetensorsStore(read_checkpoint(folder), chunk_bytes=CHUNK_BYTES)
        group = await zarr.api.asynchronous.open_group(store, mode="r")
        array = await group.getitem("model.layers.0.weight")
        return await array.getitem(slice(1, 6))

    expected = some_tensors()["model.layers.0.weight"][1:6]
    assert expected.tobytes() == np.asarray(asyncio.run(read())).tobytes()


def test_whole_chunks_are_views(folder: Path) -> None:
    """A whole chunk is the file's own memory; only a padded one is a copy."""
    store = SafetensorsStore(read_checkpoint(folder), chunk_bytes=CHUNK_BYTES)
    mapped = store.checkpoint.tensors["model.layers.0.weight"].source.read(0, 35)
    first = store.get_sync("model.layers.0.weight/c/0/0").as_numpy_array()
    last = store.get_sync("model.layers.0.weight/c/3/0").as_numpy_array()
    assert np.shares_memory(mapped, first)
    assert not first.flags.writeable
    assert not np.shares_memory(mapped, last)
    assert bytes(10) == last[-10:].tobytes()


def test_chunk_size_must_be_positive(folder: Path) -> None:
    """A chunk size of nothing is refused."""
    with pytest.raises(ValueError, match="expected at least 1"):
        SafetensorsStore(read_checkpoint(folder), chunk_bytes=0)
