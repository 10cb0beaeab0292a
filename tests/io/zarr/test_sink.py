"""Zarr output: what the official libraries read is what was written, bit for bit, however it is cut and compressed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.io import open_checkpoint, read_checkpoint
from dovetail.io.dtypes import DTYPES
from dovetail.io.formats.safetensors_layout import plan_layout
from dovetail.io.formats.safetensors_sink import SafetensorsSink
from dovetail.io.output import ZarrFormat
from dovetail.io.source import WrittenRange
from dovetail.io.zarr import layout as layouts
from dovetail.io.zarr.layout import ZarrLayout, array_grid, folder_name, plan_zarr
from dovetail.io.zarr.sink import ZarrSink
from tests.io.contracts.sinks import NAMES, TENSORS, Opened, SinkTests, SlotTests, Writing
from tests.io.samples import every_kind, random_array, read_officially, write_file
from tests.io.zarr_files import read_bytes, write_group

CODECS = ("zstd", "blosc", "none")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even small tensors into several chunks."""
    monkeypatch.setattr(layouts, "INNER_BYTES", 16)
    monkeypatch.setattr(layouts, "_STEP_ELEMENTS", 2)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("codec", "sharded"), [*((codec, False) for codec in CODECS), ("zstd", True)], ids=[*CODECS, "zstd in shards"]
)
def test_round_trip_of_every_dtype(tmp_path: Path, codec: str, sharded: bool) -> None:
    """Safetensors to Zarr and back is the same bits, by the official zarr and safetensors packages as by ours."""
    original = read_checkpoint(write_file(tmp_path / "a.safetensors", every_kind(), {"format": "pt", "note": "kept"}))
    expected = read_officially(tmp_path / "a.safetensors")
    folder = write_group(tmp_path / "group", original, codec, target=8, sharded=sharded)
    group = zarr.open_group(folder, mode="r")
    assert set(expected) == set(group.array_keys())
    for name, (dtype, shape, data) in expected.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert (DTYPES[dtype].zarr_name, shape) == (np.dtype(array.dtype).name, array.shape)
        assert dtype == array.attrs["safetensors_dtype"]
        assert data == np.asarray(array[...]).tobytes()
    back = read_checkpoint(folder)
    assert {"format": "pt", "note": "kept"} == back.metadata
    layout = plan_layout([(info.name, info.dtype, info.shape) for info in back.tensors.values()], 10**9, back.metadata)
    sink = SafetensorsSink.create(layout, tmp_path)
    for index, info in enumerate(back.tensors.values()):
        sink.write(index, 0, info.source.read(0, info.length))
    sink.close()
    assert expected == read_officially(tmp_path / "model.safetensors")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_tensorstore_reads_it(tmp_path: Path, codec: str) -> None:
    """Another library, that knows nothing of zarr-python, reads chunks and shards alike."""
    tensors = {"plain": random_array(0, "BF16", (5, 7)), "whole": random_array(1, "I32", (3, 4, 5))}
    original = read_checkpoint(write_file(tmp_path / "a.safetensors", tensors))
    for sharded in (False, True):
        folder = write_group(tmp_path / str(sharded), original, codec, target=14, sharded=sharded)
        for name, tensor in tensors.items():
            place = {"driver": "file", "path": str(folder / name)}
            array = tensorstore.open({"driver": "zarr3", "kvstore": place}).result()
            assert tensor.tobytes() == np.ascontiguousarray(array.read().result()).tobytes()


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(0, 12), max_size=4).map(tuple),
    target=st.integers(1, 300),
    itemsize=st.sampled_from([1, 2, 4, 8]),
    sharded=st.booleans(),
)
def test_objects_tile_the_tensor(shape: tuple[int, ...], target: int, itemsize: int, sharded: bool) -> None:
    """Objects are runs that follow one another, as long as the grid says, of whole chunks, about as large as asked."""
    grid = array_grid(shape, itemsize, target, sharded=sharded)
    layout = plan_zarr([("a", DTYPES["U8"], shape, grid)], "zstd")
    objects = layout.tensors[0].objects
    length = int(np.prod(shape, dtype=int))
    assert all(whole % chunk == 0 for whole, chunk in zip(grid.object_shape, grid.chunk_shape, strict=True))
    assert grid.object_elements <= max(target * 9 / 8 + 1, np.prod(grid.chunk_shape, dtype=int) * 2)
    begin = 0
    for position in np.ndindex(objects.counts) if length else ():
        start, stop = objects.element_range(position)
        assert begin == start
        assert position == objects.find(start) == objects.find(stop - 1)
        assert min(start + grid.object_elements, (start // grid.period + 1) * grid.period, length) == stop
        begin = stop
    assert length == begin


def test_names_become_folders() -> None:
    """Plain names are kept; any that could be another file's, or no folder's, get one made from them, all distinct."""
    plain = ["model.layers.0.mlp.up_proj.weight", "lm_head", "_x-1", "a.weight"]
    assert plain == [folder_name(name) for name in plain]
    odd = [
        "config.json",
        "zarr.json",
        "README.md",
        "readme",
        "c",
        "dovetail_journal",
        "__a",
        ".hidden",
        "a b",
        "ä",
        "x" * 500,
    ]
    folders = [folder_name(name) for name in odd]
    assert len(set(folders)) == len(odd)
    for name, folder in zip(odd, folders, strict=True):
        assert name != folder
        assert "/" not in folder
        assert len(folder.encode()) < 256


@pytest.mark.parametrize("name", ["config.json", "c", "x" * 500, "a b %2F", "ä.weight"])
def test_odd_names_come_back(tmp_path: Path, name: str) -> None:
    """A tensor whose name cannot be a folder's keeps its name."""
    original = read_checkpoint(write_file(tmp_path / "a.safetensors", {name: random_array(0, "F32", (3,))}))
    folder = write_group(tmp_path / "group", original)
    assert read_bytes(original) == read_bytes(read_checkpoint(folder))
    assert [name] == list(open_checkpoint(folder).array_keys())


@pytest.mark.usefixtures("small")
def test_only_whole_objects_are_written(tmp_path: Path) -> None:
    """A range that is not whole objects is refused: two tasks could write one file."""
    layout = plan_zarr([("a", DTYPES["F32"], (10, 4), array_grid((10, 4), 4, 8, sharded=False))], "zstd")
    sink = ZarrFormat().create_sink(layout, tmp_path)
    for start, count in ((1, 8), (0, 7), (4, 8), (0, 9)):
        with pytest.raises(ValueError, match="no whole objects"):
            sink.slot(0).write(start, np.zeros(count, np.float32).view(np.uint8))
    sink.slot(0).write(8, np.zeros(16, np.float32).view(np.uint8))
    assert ["c.1.0", "c.2.0", "zarr.json"] == sorted(path.name for path in (tmp_path / "a").iterdir())


def test_reopening_mends_metadata(tmp_path: Path) -> None:
    """Metadata that a crash has lost is written again; a folder that is gone is an error."""
    layout = plan_zarr([("a", DTYPES["F32"], (4,), array_grid((4,), 4, 100, sharded=False))], "zstd")
    ZarrFormat().create_sink(layout, tmp_path)
    ZarrFormat().reopen_sink(layout, tmp_path)
    for path in (tmp_path / "zarr.json", tmp_path / "a" / "zarr.json"):
        content = path.read_bytes()
        for damaged in (b"", b"{}", bytes(len(content))):
            path.write_bytes(damaged)
            ZarrFormat().reopen_sink(layout, tmp_path)
            assert content == path.read_bytes()
    (tmp_path / "a" / "zarr.json").unlink()
    (tmp_path / "a").rmdir()
    with pytest.raises(FileNotFoundError):
        ZarrFormat().reopen_sink(layout, tmp_path)


def test_metadata_is_consolidated(tmp_path: Path) -> None:
    """The group's document has every array's, so that a remote reader needs but one."""
    original = read_checkpoint(write_file(tmp_path / "a.safetensors", every_kind()))
    folder = write_group(tmp_path / "group", original)
    inside = json.loads((folder / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
    assert {name: json.loads((folder / name / "zarr.json").read_bytes()) for name in inside} == inside
    assert len(original.tensors) == len(inside)


@pytest.mark.usefixtures("small")
class _Zarr(Writing):
    kinds = ("chunks", "shards", "blosc")

    def layout(self, kind: str) -> ZarrLayout:
        by_numpy_name = {dtype.zarr_name: dtype for dtype in DTYPES.values()}
        tensors = []
        for name, tensor in TENSORS.items():
            grid = array_grid(tensor.shape, tensor.itemsize, 14, sharded=kind == "shards")
            tensors.append((name, by_numpy_name[tensor.dtype.name], tensor.shape, grid))
        return plan_zarr(tensors, "blosc" if kind == "blosc" else "zstd")

    def create(self, kind: str, folder: Path) -> ZarrSink:
        return ZarrSink.create(self.layout(kind), folder)

    def reopen(self, kind: str, folder: Path) -> ZarrSink:
        return ZarrSink(self.layout(kind), folder)

    def ranges(self, sink: Opened, index: int) -> list[tuple[int, int]]:
        assert isinstance(sink, ZarrSink)
        array = sink.layout.tensors[index]
        return (
            [array.objects.element_range(place) for place in np.ndindex(array.objects.counts)] if array.length else []
        )

    def read(self, folder: Path) -> dict[str, bytes]:
        group = zarr.open_group(folder, mode="r")
        return {name: np.asarray(array[...]).tobytes() for name, array in group.arrays()}

    def files(self, sink: Opened, written: WrittenRange) -> set[Path]:
        assert isinstance(sink, ZarrSink)
        home = sink.folder / NAMES[written[0]]
        array = sink.layout.tensors[written[0]]
        key = ".".join(("c", *map(str, array.objects.find(written[1]))))
        return {home, home / key}


class TestZarrSink(_Zarr, SinkTests):
    """Chunks and shards."""


class TestArraySlot(_Zarr, SlotTests):
    """Objects of an array."""


def test_the_first_commit_flushes_what_describes_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an array's first object its metadata, and the folder that lists the array, reach the disk."""
    layout = plan_zarr([("a", DTYPES["F32"], (4,), array_grid((4,), 4, 100, sharded=False))], "zstd")
    with ZarrSink.create(layout, tmp_path) as sink:
        sink.write(0, 0, np.zeros(4, np.float32))
        flushed: list[Path] = []
        monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(Path(os.readlink(f"/proc/self/fd/{fd}"))))
        sink.commit([(0, 0, 4)])
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "c.0", tmp_path / "a" / "zarr.json"} == set(flushed)
