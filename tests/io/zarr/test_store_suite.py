"""The Zarr store under zarr's own suite for stores."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import _collect_aiterator, sync
from zarr.testing.store import StoreTests

from dovetail.io import read_checkpoint
from dovetail.io.zarr.store import SafetensorsStore
from tests.io.samples import some_tensors, write_file

CHUNK_BYTES = 24
PROTOTYPE = default_buffer_prototype()
READ_ONLY = "store was opened in read-only mode and does not support writing"


class TestSafetensorsStore(StoreTests[SafetensorsStore, cpu.Buffer]):
    """zarr's suite for stores. It fills stores with arbitrary keys; where it does so, the store's own keys stand in."""

    store_cls = SafetensorsStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        write_file(tmp_path / "model.safetensors", some_tensors(), {"format": "pt"})
        return {"checkpoint": read_checkpoint(tmp_path), "chunk_bytes": CHUNK_BYTES}

    @pytest.fixture
    def store(self, store_kwargs: dict[str, Any]) -> SafetensorsStore:
        return sync(SafetensorsStore.open(**store_kwargs))

    @pytest.fixture
    def store_not_open(self, store_kwargs: dict[str, Any]) -> SafetensorsStore:
        return SafetensorsStore(**store_kwargs)

    async def set(self, store: SafetensorsStore, key: str, value: cpu.Buffer) -> None:
        raise AssertionError("a checkpoint cannot be given keys")

    async def get(self, store: SafetensorsStore, key: str) -> cpu.Buffer:
        assert "foo/c/0" == key
        return cpu.Buffer.from_bytes(some_tensors()["foo"].tobytes())

    def test_store_repr(self, store: SafetensorsStore, tmp_path: Path) -> None:
        """The representation names the checkpoint."""
        assert f"SafetensorsStore('safetensors://{tmp_path}')" == repr(store)

    def test_store_supports_writes(self, store: SafetensorsStore) -> None:
        """The store says that it can be read and listed, and not written."""
        assert not store.supports_writes
        assert not store.supports_deletes

    def test_store_supports_listing(self, store: SafetensorsStore) -> None:
        """The store can be listed."""
        assert store.supports_listing

    def test_store_read_only(self, store: SafetensorsStore) -> None:
        """The store is read-only, and cannot be made otherwise."""
        assert store.read_only
        with pytest.raises(AttributeError):
            store.read_only = False  # type: ignore[misc]
        with pytest.raises(ValueError, match="expected read_only=True"):
            SafetensorsStore(store.checkpoint, read_only=False)
        assert store is store.with_read_only(read_only=True)

    @pytest.mark.parametrize("read_only", [True])
    async def test_store_open_read_only(self, open_kwargs: dict[str, Any], read_only: bool) -> None:
        """The store opens read-only."""
        await super().test_store_open_read_only(open_kwargs, read_only)

    async def test_serializable_store(self, store: SafetensorsStore) -> None:
        """A pickled store is equal and reads the same."""
        copy = pickle.loads(pickle.dumps(store))
        assert store == copy
        assert copy.read_only
        found = await copy.get("foo/c/0", PROTOTYPE)
        assert (await self.get(store, "foo/c/0")).to_bytes() == found.to_bytes()

    def test_store_not_equal(self, store: SafetensorsStore, tmp_path: Path) -> None:
        """Stores of other files or other chunks differ; no store can be hashed."""
        write_file(tmp_path / "other.safetensors", some_tensors())
        assert store != SafetensorsStore(read_checkpoint(tmp_path / "other.safetensors"), chunk_bytes=CHUNK_BYTES)
        assert store != SafetensorsStore(store.checkpoint)
        assert store != "store"
        with pytest.raises(TypeError, match="unhashable"):
            hash(store)

    @pytest.mark.parametrize("key", ["foo/c/0"])
    @pytest.mark.parametrize(
        ("byte_range", "part"),
        [
            (None, slice(None)),
            (RangeByteRequest(1, 4), slice(1, 4)),
            (RangeByteRequest(2, 99), slice(2, 4)),
            (OffsetByteRequest(1), slice(1, 4)),
            (SuffixByteRequest(1), slice(3, 4)),
            (SuffixByteRequest(99), slice(0, 4)),
        ],
    )
    async def test_get(self, store: SafetensorsStore, key: str, byte_range: Any, part: slice) -> None:
        """Each kind of range gives the bytes asked for."""
        expected = (await self.get(store, key)).to_bytes()[part]
        assert expected == (await store.get(key, PROTOTYPE, byte_range)).to_bytes()

    async def test_get_not_open(self, store_not_open: SafetensorsStore) -> None:
        """A store that was not opened opens itself."""
        assert not store_not_open._is_open
        assert await store_not_open.get("foo/c/0", PROTOTYPE) is not None
        assert store_not_open._is_open

    async def test_get_raises(self, store: SafetensorsStore) -> None:
        """A range of no known kind is an error."""
        with pytest.raises(ValueError, match=r"Unexpected byte_range, got.*"):
            await store.get("foo/c/0", prototype=PROTOTYPE, byte_range=(0, 2))  # type: ignore[arg-type]

    async def test_get_many(self, store: SafetensorsStore) -> None:
        """Several keys are read at once, missing ones as None."""
        keys = ("foo/c/0", "zarr.json", "nothing")
        found = dict(await _collect_aiterator(store._get_many((key, PROTOTYPE, None) for key in keys)))
        assert keys == tuple(found)
        assert (await self.get(store, "foo/c/0")).to_bytes() == found["foo/c/0"].to_bytes()
        assert found["nothing"] is None

    @pytest.mark.parametrize("key_ranges", [[], [("foo/c/0", RangeByteRequest(0, 2)), ("zarr.json", None)]])
    async def test_get_partial_values(self, store: SafetensorsStore, key_ranges: list[Any]) -> None:
        """Several ranges are read at once."""
        found = await store.get_partial_values(prototype=PROTOTYPE, key_ranges=key_ranges)
        expected = [await store.get(key, PROTOTYPE, byte_range) for key, byte_range in key_ranges]
        assert [buffer.to_bytes() for buffer in expected] == [buffer.to_bytes() for buffer in found]

    @pytest.mark.parametrize("key", ["zarr.json", "foo/zarr.json", "foo/c/0", "model.layers.0.weight/c/3/0"])
    async def test_getsize(self, store: SafetensorsStore, key: str) -> None:
        """A size is that of the value."""
        assert len(await store.get(key, PROTOTYPE)) == await store.getsize(key)

    async def test_getsize_prefix(self, store: SafetensorsStore) -> None:
        """The size of a folder is the sum over its keys, padding included."""
        assert 4 == await store.getsize_prefix("foo/c")
        assert 4 * 20 == await store.getsize_prefix("model.layers.0.weight/c")

    async def test_exists(self, store: SafetensorsStore) -> None:
        """Documents and chunks exist; folders and anything else do not."""
        for key in ("zarr.json", "foo/zarr.json", "foo/c/0", "model.layers.0.bias/c"):
            assert await store.exists(key)
        for key in ("", "foo", "foo/c", "foo/c/1", "empty/c/0/0", "bar/zarr.json", ".zgroup", "foo/.zarray"):
            assert not await store.exists(key)

    async def test_is_empty(self, store: SafetensorsStore) -> None:
        """A folder with keys is not empty; a mere beginning of a name is no folder."""
        assert not await store.is_empty("")
        assert not await store.is_empty("foo")
        assert not await store.is_empty("foo/")
        assert await store.is_empty("fo")
        assert await store.is_empty("spam/")

    async def test_get_bytes(self, store: SafetensorsStore) -> None:
        """Bytes are read; a missing key raises."""
        assert (await self.get(store, "foo/c/0")).to_bytes() == await store._get_bytes("foo/c/0", prototype=PROTOTYPE)
        with pytest.raises(FileNotFoundError):
            await store._get_bytes("nonexistent_key", prototype=PROTOTYPE)

    def test_get_bytes_sync(self, store: SafetensorsStore) -> None:
        """Bytes are read by synchronous callers."""
        assert some_tensors()["foo"].tobytes() == store._get_bytes_sync("foo/c/0", prototype=PROTOTYPE)

    async def test_get_json(self, store: SafetensorsStore) -> None:
        """Documents are JSON."""
        document = await store._get_json("zarr.json", prototype=PROTOTYPE)
        assert {"safetensors_metadata": {"format": "pt"}} == document["attributes"]

    def test_get_json_sync(self, store: SafetensorsStore) -> None:
        """Documents are JSON for synchronous callers too."""
        assert "group" == store._get_json_sync("zarr.json", prototype=PROTOTYPE)["node_type"]

    def test_get_sync(self, store: SafetensorsStore) -> None:
        """Chunks are read without an event loop."""
        assert some_tensors()["foo"].tobytes() == store.get_sync("foo/c/0").to_bytes()

    async def test_list(self, store: SafetensorsStore) -> None:
        """All keys are listed once."""
        expected = ["zarr.json", *(f"{name}/zarr.json" for name in some_tensors())]
        expected += ["foo/c/0", "model.layers.0.bias/c", *(f"model.layers.0.weight/c/{row}/0" for row in range(4))]
        assert sorted(expected) == sorted(await _collect_aiterator(store.list()))

    @pytest.mark.parametrize("name", ["set", "set_if_not_exists", "delete"])
    async def test_writing_is_refused(self, store: SafetensorsStore, name: str) -> None:
        """Nothing can be written or deleted, whether the key is there or not."""
        arguments = ("foo/c/9",) if name == "delete" else ("foo/c/9", self.buffer_cls.from_bytes(b"x"))
        with pytest.raises(ValueError, match=READ_ONLY):
            await getattr(store, name)(*arguments)


async def _test_writing_is_refused(self: TestSafetensorsStore, store: SafetensorsStore) -> None:
    """Nothing can be written or deleted."""
    with pytest.raises(ValueError, match=READ_ONLY):
        await store._set_many([("foo/c/0", cpu.Buffer.from_bytes(b"x"))])
    with pytest.raises(NotImplementedError):
        await store.clear()


WRITING = ("test_set", "test_set_not_open", "test_set_many", "test_set_if_not_exists", "test_clear")
COVERED_BY_PARITY = ("test_list_prefix", "test_list_empty_path", "test_list_dir")
for _name in WRITING:
    setattr(TestSafetensorsStore, _name, _test_writing_is_refused)
for _name in COVERED_BY_PARITY:
    setattr(TestSafetensorsStore, _name, None)


def test_suite_is_complete() -> None:
    """Each test of zarr's suite runs as it is, or is replaced here, or is named as covered by the parity test."""
    suite = {name for name, _ in inspect.getmembers(StoreTests, inspect.isfunction) if name.startswith("test_")}
    replaced = {name for name in suite if getattr(TestSafetensorsStore, name) is not getattr(StoreTests, name)}
    unchanged = {
        "test_store_type",
        "test_store_eq",
        "test_store_supports_partial_writes",
        "test_store_context_manager",
        "test_read_only_store_raises",
        "test_with_read_only_store",
        "test_getsize_raises",
        "test_get_sync_missing",
        "test_delete",
        "test_delete_dir",
        "test_delete_nonexistent_key_does_not_raise",
        "test_set_sync",
        "test_delete_sync",
        "test_delete_sync_missing",
    }
    assert suite == replaced | unchanged
