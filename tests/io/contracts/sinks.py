"""The tests that every sink and every slot must pass. A writer's tests subclass `SinkTests` and `SlotTests`."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.io.output_format import Sink
from dovetail.io.source import Slot, WrittenRange
from tests.io.samples import random_array


class Opened(Sink, Protocol):
    """A sink, as the tests use it."""

    def write(self, tensor_index: int, start: int, data: Any) -> None: ...


TENSORS: Mapping[str, NDArray[Any]] = {
    "matrix": random_array(1, "F32", (12, 10)),
    "half": random_array(2, "BF16", (7, 9)),
    "bytes": random_array(3, "U8", (61,)),
    "scalar": random_array(4, "F64", ()),
    "empty": random_array(5, "F32", (0, 3)),
    "cube": random_array(6, "I32", (3, 4, 5)),
}
"""What is written."""

NAMES = tuple(TENSORS)


def parts(name: str, start: int, stop: int) -> NDArray[Any]:
    """Give some elements of a tensor."""
    return TENSORS[name].reshape(-1)[start:stop]


def write_in_child(slot: Slot, name: str, ranges: list[tuple[int, int]]) -> int:
    """Write ranges of a tensor; return the id of the process that did."""
    for start, stop in ranges:
        slot.write(start, parts(name, start, stop).view(np.uint8))
    return os.getpid()


class Writing:
    """What the tests of a writer provide."""

    kinds: ClassVar[tuple[str, ...]] = ("",)
    """What there is of the format, given to all methods."""

    def create(self, kind: str, folder: Path) -> Opened:
        """Create the output of `TENSORS` in a folder."""
        raise NotImplementedError

    def reopen(self, kind: str, folder: Path) -> Opened:
        """Open what `create` made."""
        raise NotImplementedError

    def ranges(self, sink: Opened, index: int) -> list[tuple[int, int]]:
        """Cut a tensor into ranges that may be written separately."""
        raise NotImplementedError

    def read(self, folder: Path) -> dict[str, bytes]:
        """Read every tensor's bytes by the format's official library."""
        raise NotImplementedError

    def files(self, sink: Opened, written: WrittenRange) -> set[Path]:
        """List the files that must be flushed for a range to be durable."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test that takes a kind with each of the kinds."""
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", self.kinds)

    def all_ranges(self, sink: Opened) -> list[WrittenRange]:
        """List the ranges of all tensors."""
        return [(index, *found) for index in range(len(NAMES)) for found in self.ranges(sink, index)]

    def write(self, sink: Opened, written: WrittenRange) -> None:
        """Write a range of a tensor."""
        index, start, stop = written
        sink.slot(index).write(start, parts(NAMES[index], start, stop).view(np.uint8))

    def assert_whole(self, folder: Path) -> None:
        """Compare what the official library reads with what was written."""
        assert {name: tensor.tobytes() for name, tensor in TENSORS.items()} == self.read(folder)


class SinkTests(Writing):
    """The contract of `dovetail.io.output_format.Sink`."""

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_any_order(self, kind: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        """In whatever order ranges are written and committed, some of them twice, the output is the same."""
        folder = tmp_path_factory.mktemp("sink")
        sink = self.create(kind, folder)
        ranges = self.all_ranges(sink)
        order = data.draw(st.permutations([*ranges, *ranges[::5]]))
        commits = data.draw(st.sets(st.integers(0, len(order) - 1), max_size=3))
        for number, written in enumerate(order):
            self.write(sink, written)
            if number in commits:
                sink.commit(order[: number + 1])
        sink.commit(ranges)
        sink.close()
        self.assert_whole(folder)

    def test_any_thread(self, kind: str, tmp_path: Path) -> None:
        """Threads that write and commit at the same time lose nothing, and leave no file open."""
        before = len(os.listdir("/proc/self/fd"))
        sink = self.create(kind, tmp_path)

        def work(written: WrittenRange) -> None:
            self.write(sink, written)
            if written[1] % 3 == 0:
                sink.commit([written])

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, self.all_ranges(sink)))
        sink.close()
        assert before == len(os.listdir("/proc/self/fd"))
        self.assert_whole(tmp_path)

    def test_unwritten_ranges_are_zeros(self, kind: str, tmp_path: Path) -> None:
        """What was never written reads as zeros, beside what was."""
        sink = self.create(kind, tmp_path)
        expected = {name: np.zeros(tensor.size, tensor.dtype) for name, tensor in TENSORS.items()}
        for index, start, stop in self.all_ranges(sink)[::2]:
            self.write(sink, (index, start, stop))
            expected[NAMES[index]][start:stop] = parts(NAMES[index], start, stop)
        sink.close()
        assert {name: tensor.tobytes() for name, tensor in expected.items()} == self.read(tmp_path)

    def test_commit_is_durable(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Everything that a committed range needs has been flushed to the disk when `commit` returns."""
        sink = self.create(kind, tmp_path)
        ranges = self.all_ranges(sink)
        for written in ranges:
            self.write(sink, written)
        flushed: set[Path] = set()
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, lambda fd: flushed.add(Path(os.readlink(f"/proc/self/fd/{fd}"))))
        for written in ranges:
            flushed.clear()
            sink.commit([written])
            assert self.files(sink, written) <= flushed
        sink.close()

    def test_failed_flush(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the disk fails to store a range, `commit` raises an error."""
        sink = self.create(kind, tmp_path)
        written = self.all_ranges(sink)[0]
        self.write(sink, written)

        def fail(_: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            patched.setattr(os, "fdatasync", fail)
            with pytest.raises(OSError, match="Input/output error"):
                sink.commit([written])
        sink.commit([written])
        sink.close()

    def test_reopening(self, kind: str, tmp_path: Path) -> None:
        """What an earlier sink wrote stays, and a later one completes it."""
        sink = self.create(kind, tmp_path)
        ranges = self.all_ranges(sink)
        for written in ranges[::2]:
            self.write(sink, written)
        sink.close()
        later = self.reopen(kind, tmp_path)
        for written in ranges[1::2]:
            self.write(later, written)
        later.commit(ranges)
        later.close()
        self.assert_whole(tmp_path)

    def test_existing_files_are_refused(self, kind: str, tmp_path: Path) -> None:
        """A file that exists already is never overwritten."""
        sink = self.create(kind, tmp_path)
        for written in self.all_ranges(sink):
            self.write(sink, written)
        sink.close()
        with pytest.raises(FileExistsError):
            self.create(kind, tmp_path)
        self.assert_whole(tmp_path)


class SlotTests(Writing):
    """The contract of `dovetail.io.source.Slot`."""

    def test_pickle(self, kind: str, tmp_path: Path) -> None:
        """A slot is pickled as a description; the copy is equal, and writes to the same place."""
        sink = self.create(kind, tmp_path)
        for index, name in enumerate(NAMES):
            pickled = pickle.dumps(sink.slot(index))
            assert len(pickled) < 2_000
            copy = pickle.loads(pickled)
            assert sink.slot(index) == copy
            write_in_child(copy, name, self.ranges(sink, index))
        sink.close()
        self.assert_whole(tmp_path)

    def test_other_process(self, kind: str, tmp_path: Path, other_process: Executor) -> None:
        """A process that never saw the sink writes to its slots, and the sink makes that durable."""
        sink = self.create(kind, tmp_path)
        for index, name in enumerate(NAMES):
            slot, ranges = sink.slot(index), self.ranges(sink, index)
            assert os.getpid() != other_process.submit(write_in_child, slot, name, ranges).result()
            sink.commit((index, start, stop) for start, stop in ranges)
        sink.close()
        self.assert_whole(tmp_path)

    def test_outside(self, kind: str, tmp_path: Path) -> None:
        """A write never reaches beyond its tensor, and never writes a part of an element."""
        sink = self.create(kind, tmp_path)
        slot, size = sink.slot(0), TENSORS["matrix"].size
        for start, count in ((-1, 1), (0, size + 1), (size, 1), (size + 1, 1)):
            with pytest.raises((IndexError, ValueError)):
                slot.write(start, np.ones(count, np.float32).view(np.uint8))
        with pytest.raises(ValueError, match="5 bytes are no whole number of 4-byte elements"):
            slot.write(0, np.ones(5, np.uint8))
        sink.close()
        assert not any(any(data) for data in self.read(tmp_path).values())

    def test_whatever_the_array(self, kind: str, tmp_path: Path) -> None:
        """Read-only arrays and arrays with gaps are written element by element, in order."""
        sink = self.create(kind, tmp_path)
        for index, start, stop in self.all_ranges(sink):
            data = parts(NAMES[index], start, stop).view(np.uint8)
            if start % 2:
                data = np.repeat(data, 2)[::2]
            else:
                data = data.copy()
                data.flags.writeable = False
            sink.slot(index).write(start, data)
        sink.close()
        self.assert_whole(tmp_path)

    def test_file_place(self, kind: str, tmp_path: Path) -> None:
        """If a range is said to be bytes of a file, writing these bytes writes the range."""
        sink = self.create(kind, tmp_path)
        for index, start, stop in self.all_ranges(sink):
            place = sink.slot(index).file_place(start, stop)
            if place is None:
                self.write(sink, (index, start, stop))
                continue
            file, offset_bytes = place
            file.write(offset_bytes, parts(NAMES[index], start, stop).view(np.uint8).data)
        sink.close()
        self.assert_whole(tmp_path)

    def test_a_later_output_is_spared(self, kind: str, tmp_path: Path) -> None:
        """A slot of an output that was published, and begun again under the same name, writes to neither."""
        staging = tmp_path / "staging"
        staging.mkdir()
        sink = self.create(kind, staging)
        slot, (start, stop) = sink.slot(0), self.ranges(sink, 0)[0]
        sink.close()
        staging.rename(tmp_path / "published")
        data = parts("matrix", start, stop).view(np.uint8)
        with pytest.raises(FileNotFoundError):
            slot.write(start, data)
        staging.mkdir()
        self.create(kind, staging).close()
        with pytest.raises(FileNotFoundError, match="has taken the place"):
            slot.write(start, data)
        for folder in (staging, tmp_path / "published"):
            assert not any(self.read(folder)["matrix"])
