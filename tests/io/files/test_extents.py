"""Neighbouring ranges are joined, and joined writes give the same output as separate ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.io.dtypes import DTYPES
from dovetail.io.files.extents import JoinedWriter, join_mapped
from dovetail.io.files.mapping import MappedSource
from dovetail.io.files.outfile import OutFile
from dovetail.io.formats.safetensors_layout import plan_layout
from dovetail.io.formats.safetensors_sink import SafetensorsSink


def source(path: str, offset: int, length: int) -> MappedSource:
    """Make a source of 2-byte elements; nothing is opened."""
    return MappedSource(path, offset, length, 2, 10**9, 7)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 9)), max_size=12))
def test_the_same_bytes_in_fewest_ranges(drawn: list[tuple[str, int, int]]) -> None:
    """Joined ranges cover exactly the bytes of those given, file by file, and no two of them touch."""
    joined = join_mapped(source(path, 3 + 2 * start, 100).mapped_bytes(0, length) for path, start, length in drawn)
    parts = [found for item, start, stop in joined if (found := item.mapped_bytes(start, stop)) is not None]
    covered = {(part.path, byte) for part in parts for byte in range(part.begin, part.end)}
    expected = {(path, 3 + 2 * start + byte) for path, start, length in drawn for byte in range(2 * length)}
    assert expected == covered
    assert len(joined) == len(parts) == sum((path, byte - 1) not in covered for path, byte in covered)


def test_files_that_changed_in_between_are_apart() -> None:
    """Ranges of the same path with another size or time are not joined."""
    first, second = source("a", 0, 5), MappedSource("a", 10, 5, 2, 10**9, 8)
    assert 2 == len(join_mapped([first.mapped_bytes(0, 5), second.mapped_bytes(0, 5)]))


def test_one_write_for_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are neighbours in both the buffer and the file are written at once, each to its place."""
    shapes = [(f"t{number}", DTYPES["BF16"], (5 + number,)) for number in range(6)]
    layout = plan_layout(shapes, 40)
    calls: list[int] = []
    write = OutFile.write

    def counted(self: OutFile, offset_bytes: int, data: memoryview) -> None:
        calls.append(data.nbytes)
        write(self, offset_bytes, data)

    monkeypatch.setattr(OutFile, "write", counted)
    with SafetensorsSink.create(layout, tmp_path) as sink:
        total = sum(tensor.nbytes for tensor in layout.tensors)
        buffer = np.arange(total, dtype=np.uint8)
        writer, begin = JoinedWriter(buffer), 0
        for index, tensor in enumerate(layout.tensors):
            writer.write(sink.slot(index), 0, tensor.length, begin, begin + tensor.nbytes)
            begin += tensor.nbytes
        writer.flush()
        writer.flush()
    assert [shard.size_bytes - len(shard.header) for shard in layout.shards] == calls
    written = b"".join((tmp_path / s.file_name).read_bytes()[len(s.header) :] for s in layout.shards)
    assert buffer.tobytes() == written


def test_other_slots_are_written_one_by_one() -> None:
    """A slot that is not in a file gets each part separately, in order."""
    received: list[tuple[int, bytes]] = []

    class Slot:
        def write(self, start: int, data: np.ndarray) -> None:
            received.append((start, data.tobytes()))

        def file_place(self, start: int, stop: int) -> None:
            """Give None, because there is no file."""

    writer = JoinedWriter(np.arange(10, dtype=np.uint8))
    writer.write(Slot(), 3, 7, 0, 4)
    writer.write(Slot(), 0, 6, 4, 10)
    writer.flush()
    assert [(3, bytes(range(4))), (0, bytes(range(4, 10)))] == received
