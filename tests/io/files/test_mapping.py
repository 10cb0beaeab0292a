"""Mapped sources give the right bytes without copies, refuse changed files, and free memory."""

from __future__ import annotations

import contextlib
import errno
import gc
import mmap
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dovetail.io.errors import ChangedFileError, MissingFileError
from dovetail.io.files import mapping, system
from dovetail.io.files.mapping import RELEASE_GRANULE_BYTES, MappedFile, MappedSource, mapped_file
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.stored import random_bytes, store_mapped, touch


def drop_maps() -> None:
    """Empty the cache of maps, as maps of many other files would."""
    mapping._open_files.clear()


CONTENT = np.random.default_rng(0).integers(0, 256, 40_000, np.uint8)


def source_of(path: Path, offset: int, length: int, itemsize: int) -> MappedSource:
    status = path.stat()
    return MappedSource(str(path), offset, length, itemsize, status.st_size, status.st_mtime_ns)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").write_bytes(CONTENT.tobytes())
    return tmp_path / "data"


def resident_bytes(path: Path) -> int:
    """Measure the resident bytes of this process's maps of a file, exactly."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_aligned_ranges_are_views(path: Path) -> None:
    """If elements are aligned in the file, nothing is copied, and two reads share memory."""
    source = source_of(path, 8, 100, 4)
    assert np.shares_memory(source.read(0, 50), source.read(20, 100))
    unaligned = source_of(path, 9, 100, 4)
    assert not np.shares_memory(unaligned.read(0, 50), unaligned.read(20, 100))


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 101), (101, 101)])
def test_hints_outside_are_refused(path: Path, start: int, stop: int) -> None:
    """A hint about a range outside the tensor never reaches a neighbour's pages."""
    source = source_of(path, 8, 100, 4)
    for action in (source.prefetch, source.populate, source.release, source.mapped_bytes):
        with pytest.raises(IndexError, match="of a tensor of 100"):
            action(start, stop)


def test_populate_makes_resident_and_release_lets_go(tmp_path: Path) -> None:
    """Populating a range makes it resident, and after its release none of it is."""
    size = 4 * RELEASE_GRANULE_BYTES
    path = tmp_path / "large"
    path.write_bytes(bytes(size))
    source = source_of(path, 0, size, 1)
    if not source.populate(0, size):
        pytest.skip("needs Linux 5.14")
    assert size == resident_bytes(path)
    source.release(100, size - 100)
    assert 0 == resident_bytes(path)
    for start in range(0, size, RELEASE_GRANULE_BYTES // 2):  # as tasks do: read a range, release it
        source.read(start, start + 1000).sum()
        source.release(start, start + 1000)
        assert 0 == resident_bytes(path)


def test_changed_file_is_refused(path: Path) -> None:
    """A file that changed after its checkpoint was opened is never mapped."""
    source = source_of(path, 0, 10, 1)
    os.utime(path, ns=(0, 1))
    drop_maps()
    with pytest.raises(ChangedFileError, match="changed since the checkpoint was opened: 40000 bytes, modified at 1 n"):
        source.read(0, 10)
    os.truncate(path, 5)
    with pytest.raises(ChangedFileError, match="5 bytes"):
        source.read(0, 10)
    path.unlink()
    with pytest.raises(MissingFileError, match=r"cannot open .* expected the file that was there"):
        source.read(0, 10)


def test_file_cut_short_under_a_map_is_an_error(tmp_path: Path) -> None:
    """Populating a part that the file has lost is an error; touching it would kill the process."""
    path = tmp_path / "data"
    path.write_bytes(bytes(64 * mmap.PAGESIZE))
    source = source_of(path, 0, 64 * mmap.PAGESIZE, 1)
    if not source.populate(0, 1):
        pytest.skip("needs Linux 5.14")
    os.truncate(path, mmap.PAGESIZE)
    with pytest.raises(ChangedFileError, match="can no longer be read"):
        source.populate(32 * mmap.PAGESIZE, 64 * mmap.PAGESIZE)


def test_populate_says_where_it_cannot(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without the call, populating does nothing and returns False; other hints do nothing."""
    monkeypatch.setattr(system, "_function", lambda *_: None)
    source = source_of(path, 0, 100, 1)
    assert not source.populate(0, 100)
    source.prefetch(0, 100)
    source.release(0, 100)


def test_advice_that_the_kernel_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Advice that an older kernel refuses as invalid is no error."""
    monkeypatch.setattr(system.ctypes, "get_errno", lambda: errno.EINVAL)
    monkeypatch.setattr(system, "_function", lambda *_: lambda *_: -1)
    assert not system.advise(0, 1, system.MADV_POPULATE_READ)
    monkeypatch.setattr(system.ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        system.advise(0, 1, system.MADV_POPULATE_READ)
    assert not system.advise(0, 1, system.MADV_WILLNEED)


def test_maps_are_shared_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process maps each file once, keeps a bounded number of maps, and drops the least recently used."""
    monkeypatch.setattr(mapping, "_MAX_OPEN_FILES", 2)
    drop_maps()
    files = []
    for number in range(3):
        path = tmp_path / str(number)
        path.write_bytes(bytes([number]) * 100)
        files.append((str(path), 100, path.stat().st_mtime_ns))
    first, second = mapped_file(*files[0]), mapped_file(*files[1])
    assert first is mapped_file(*files[0])
    mapped_file(*files[2])
    assert first is mapped_file(*files[0])
    assert second is not mapped_file(*files[1])
    drop_maps()


def test_views_outlive_their_map(path: Path) -> None:
    """An array stays valid after its file's map was dropped, and the map closes with the last array."""
    source = source_of(path, 0, 40_000, 1)
    view = source.read(0, 40_000)
    drop_maps()
    gc.collect()
    assert str(path) in Path("/proc/self/maps").read_text()
    np.testing.assert_array_equal(CONTENT, view)
    del view
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_no_descriptor_leaks_when_the_file_is_refused(path: Path) -> None:
    """Refusing a changed file closes it."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(ChangedFileError):
            MappedFile(str(path), 1, 1)
    assert before == len(os.listdir("/proc/self/fd"))


def test_threads_share_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many threads reading, releasing and evicting at once always see the right bytes."""
    monkeypatch.setattr(mapping, "_MAX_OPEN_FILES", 2)
    sources = []
    for number in range(5):
        path = tmp_path / str(number)
        path.write_bytes(np.roll(CONTENT, number).tobytes())
        sources.append(source_of(path, 0, 40_000, 1))
    barrier = threading.Barrier(8)

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        barrier.wait()
        for _ in range(200):
            number = int(random.integers(5))
            start, stop = sorted(random.integers(0, 40_001, 2).tolist())
            np.testing.assert_array_equal(np.roll(CONTENT, number)[start:stop], sources[number].read(start, stop))
            sources[number].release(start, stop)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


OFFSETS = {"aligned": (8, "<f4"), "unaligned": (7, "<f4"), "bytes": (3, "u1"), "wide": (4096, "<f8")}


class TestMappedSource(SourceTests):
    """Tensors anywhere in a file."""

    kinds = tuple(OFFSETS)

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        offset_bytes, dtype = OFFSETS[kind]
        values = random_bytes(shape, dtype)
        source = store_mapped(folder / "data", values, offset_bytes)
        yield Stored(source, values.tobytes(), lambda: touch(folder / "data"))
