"""The sink writes each range to its place, from any thread or process, and the official library reads the files."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dovetail.io import read_checkpoint
from dovetail.io.dtypes import DTYPES, DType
from dovetail.io.files import outfile, system
from dovetail.io.formats.safetensors_layout import SafetensorsLayout, plan_layout
from dovetail.io.formats.safetensors_sink import SafetensorsSink
from dovetail.io.source import WrittenRange
from tests.io.contracts.sinks import NAMES, TENSORS, Opened, SinkTests, SlotTests, Writing
from tests.io.samples import every_kind, random_array, read_officially

F32, BF16 = DTYPES["F32"], DTYPES["BF16"]


def layout_of(tensors: dict[str, np.ndarray], shard_size_bytes: int) -> SafetensorsLayout:
    by_numpy_name = {dtype.zarr_name: dtype for dtype in DTYPES.values()}
    specs = [(name, by_numpy_name[array.dtype.name], array.shape) for name, array in tensors.items()]
    return plan_layout(specs, shard_size_bytes)


def assert_written(folder: Path, layout: SafetensorsLayout, tensors: dict[str, np.ndarray]) -> None:
    """Compare the files with the tensors through the official library, and through our own reader."""
    found = {}
    for shard in layout.shards:
        found |= read_officially(folder / shard.file_name)
    assert {
        tensor.name: (tensor.dtype.name, tensor.shape, tensors[tensor.name].tobytes()) for tensor in layout.tensors
    } == found
    assert set(tensors) == set(read_checkpoint(folder).tensors)


@pytest.mark.parametrize("shard_size_bytes", [10**9, 100, 1])
def test_every_dtype_and_shape(tmp_path: Path, shard_size_bytes: int) -> None:
    """Tensors of every dtype and shape, in one shard or many, are read back by the official library."""
    tensors = every_kind()
    layout = layout_of(tensors, shard_size_bytes)
    with SafetensorsSink.create(layout, tmp_path) as sink:
        for number, array in enumerate(tensors.values()):
            sink.write(number, 0, array)
        sink.commit((number, 0, array.size) for number, array in enumerate(tensors.values()))
    assert_written(tmp_path, layout, tensors)
    assert (layout.index is not None) == (tmp_path / "model.safetensors.index.json").exists()


def test_torch_reads_the_output(tmp_path: Path) -> None:
    """safetensors.torch loads the files: every dtype, with its values."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    tensors = every_kind()
    layout = layout_of(tensors, 10**9)
    with SafetensorsSink.create(layout, tmp_path) as sink:
        for number, array in enumerate(tensors.values()):
            sink.write(number, 0, array)
    loaded = load_file(tmp_path / "model.safetensors")
    for name, array in tensors.items():
        assert DTYPES[name.split(".")[0]].torch_name == str(loaded[name].dtype).removeprefix("torch.")
        assert array.shape == tuple(loaded[name].shape)
        assert array.tobytes() == loaded[name].reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("form", [bytes, memoryview, np.ndarray, "read-only", "strided", "typed memoryview"])
def test_any_buffer_is_written(tmp_path: Path, form: Any) -> None:
    """Bytes, views and arrays of any dtype, read-only or strided, are written by their elements in order."""
    values = np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16)
    raw = values.view(np.uint8)
    data: Any = {
        bytes: raw.tobytes(),
        memoryview: memoryview(raw.tobytes()),
        np.ndarray: values,
        "read-only": np.frombuffer(raw.tobytes(), np.uint8),
        "strided": np.repeat(values, 2)[::2],
        "typed memoryview": values.view(np.uint16).data,
    }[form]
    with SafetensorsSink.create(plan_layout([("w", BF16, (8,))], 100), tmp_path) as sink:
        sink.write(0, 1, data)
    _, _, found = read_officially(tmp_path / "model.safetensors")["w"]
    assert bytes(2) + raw.tobytes() + bytes(2) == found


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 9), (8, 1), (9, 0)])
def test_writing_outside_a_tensor_is_refused(tmp_path: Path, start: int, count: int) -> None:
    """No write reaches a neighbour's bytes."""
    with SafetensorsSink.create(plan_layout([("v", F32, (8,)), ("w", F32, (8,))], 100), tmp_path) as sink:
        with pytest.raises(IndexError, match="of a tensor of 8"):
            sink.write(0, start, np.ones(count, np.float32))
        with pytest.raises(IndexError):
            sink.commit([(0, 0, 9)])
    assert all(bytes(32) == data for _, _, data in read_officially(tmp_path / "model.safetensors").values())


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system takes only a few bytes at a time, all bytes are written in several calls."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: pwrite(fd, view[:7], offset))
    tensors = {"w": random_array(0, "F32", (50,))}
    layout = layout_of(tensors, 1000)
    with SafetensorsSink.create(layout, tmp_path) as sink:
        sink.write(0, 0, tensors["w"])
    assert_written(tmp_path, layout, tensors)


def test_full_disk_is_an_oserror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, and a disk that takes no data, raise the system's error with its number."""
    with SafetensorsSink.create(plan_layout([("w", F32, (8,))], 100), tmp_path) as sink:

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", refuse)
        with pytest.raises(OSError, match="No space left") as caught:
            sink.write(0, 0, bytes(32))
        assert errno.ENOSPC == caught.value.errno
        monkeypatch.setattr(os, "pwrite", lambda *_: 0)
        with pytest.raises(OSError, match="takes no more data"):
            sink.write(0, 0, bytes(32))


def test_files_of_an_interrupted_output_are_checked(tmp_path: Path) -> None:
    """A file that was cut short or removed after an earlier sink made it is an error."""
    layout = plan_layout([("v", F32, (8,)), ("w", F32, (8,))], 32)
    SafetensorsSink.create(layout, tmp_path).close()
    os.truncate(tmp_path / "model-00002-of-00002.safetensors", 50)
    with pytest.raises(OSError, match="file has 50 bytes instead of"):
        SafetensorsSink(layout, tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        SafetensorsSink(layout, tmp_path)


def test_threads_write_and_commit_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many threads that write and commit, with fewer files open than shards, lose nothing."""
    monkeypatch.setattr(outfile, "_MAX_OPEN_FILES", 2)
    tensors = {str(number): random_array(number, "F32", (5000,)) for number in range(6)}
    layout = layout_of(tensors, 20_000)
    before = len(os.listdir("/proc/self/fd"))
    with SafetensorsSink.create(layout, tmp_path) as sink:

        def work(piece: int) -> None:
            number, start = piece % 6, piece // 6 * 100
            sink.write(number, start, tensors[str(number)][start : start + 100])
            if piece % 20 == 0:
                sink.commit([(number, start, start + 100)])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(300)))
        assert len(os.listdir("/proc/self/fd")) <= before + 2 + 8
    assert before == len(os.listdir("/proc/self/fd"))
    assert_written(tmp_path, layout, tensors)


def test_committed_pages_leave_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit drops each run of written bytes from the page cache once, joined if ranges touch."""
    dropped: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "dovetail.io.formats.safetensors_sink.drop_cached", lambda _, offset, size: dropped.append((offset, size))
    )
    layout = plan_layout([("v", F32, (8,)), ("w", F32, (8,))], 100)
    base = layout.tensors[0].offset_bytes
    with SafetensorsSink.create(layout, tmp_path) as sink:
        sink.commit([(1, 0, 2), (0, 4, 8), (0, 0, 2), (1, 1, 3)])
    assert [(base, 8), (base + 16, 28)] == dropped


def test_hints_where_the_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing works without the calls that drop pages and flush data alone."""
    monkeypatch.setattr(system, "_function", lambda *_: None)
    monkeypatch.delattr(os, "posix_fadvise")
    monkeypatch.delattr(os, "fdatasync")
    tensors = {"w": random_array(0, "F32", (50,))}
    layout = layout_of(tensors, 1000)
    with SafetensorsSink.create(layout, tmp_path) as sink:
        sink.write(0, 0, tensors["w"])
        sink.commit([(0, 0, 50)])
    assert_written(tmp_path, layout, tensors)


def test_dtype_of_specs_is_kept() -> None:
    """The layout's dtypes are the rows of the table themselves."""
    layout = plan_layout([("w", BF16, (2,))], 100)
    assert isinstance(layout.tensors[0].dtype, DType)
    assert BF16 is layout.tensors[0].dtype


class _Safetensors(Writing):
    kinds = ("one file", "shards")

    def layout(self, kind: str) -> SafetensorsLayout:
        return layout_of(dict(TENSORS), 300 if kind == "shards" else 10**9)

    def create(self, kind: str, folder: Path) -> SafetensorsSink:
        return SafetensorsSink.create(self.layout(kind), folder)

    def reopen(self, kind: str, folder: Path) -> SafetensorsSink:
        return SafetensorsSink(self.layout(kind), folder)

    def ranges(self, sink: Opened, index: int) -> list[tuple[int, int]]:
        return list(pairwise([*range(0, TENSORS[NAMES[index]].size, 7), TENSORS[NAMES[index]].size]))

    def read(self, folder: Path) -> dict[str, bytes]:
        files = folder.glob("*.safetensors")
        return {name: data for file in files for name, (_, _, data) in read_officially(file).items()}

    def files(self, sink: Opened, written: WrittenRange) -> set[Path]:
        assert isinstance(sink, SafetensorsSink)
        shard = sink.layout.tensors[written[0]].shard
        return {sink.folder / sink.layout.shards[shard].file_name}


class TestSafetensorsSink(_Safetensors, SinkTests):
    """One file, and shards."""


class TestFileSlot(_Safetensors, SlotTests):
    """Ranges of a file."""
