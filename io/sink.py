"""Writing a planned safetensors checkpoint: any range of any tensor, in any order, from any thread."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dovetail.io.layout import INDEX_NAME, SafetensorsLayout
from dovetail.io.outfile import OutFile, borrow, close_files, create_file, find_file, write_all
from dovetail.io.system import drop_cached, start_writeback

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FileSlot", "SafetensorsLayout", "SafetensorsSink", "WrittenRange"]

WrittenRange = tuple[int, int, int]
"""Position of a tensor in the layout, and the range of its elements: start and stop."""


@dataclass(frozen=True, slots=True)
class FileSlot:
    """The place of one output tensor in a file (a `dovetail.io.source.Slot`)."""

    file: OutFile
    """The file."""
    offset_bytes: int
    """Position of the first element in the file."""
    length: int
    """Number of elements."""
    itemsize: int
    """Size of one element in bytes."""

    def write(self, start: int, data: NDArray[Any] | bytes | memoryview) -> None:
        """Write consecutive elements at their final place.

        Parameters
        ----------
        start
            First element to write.
        data
            Their stored bytes: an array of any dtype in C order, or a buffer.

        Raises
        ------
        OSError
            If the disk is full or fails, or the file is no longer there.

        """
        if isinstance(data, np.ndarray):  # numpy cannot export a buffer of bfloat16
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        view = memoryview(data)
        count, rest = divmod(view.nbytes, self.itemsize)
        if rest:
            raise ValueError(f"{view.nbytes} bytes are no whole number of {self.itemsize}-byte elements")
        offset_bytes, size_bytes = self.byte_range(start, start + count)
        if size_bytes:  # a view without elements cannot be cast
            with borrow(self.file) as descriptor:
                write_all(descriptor, view.cast("B"), offset_bytes)

    def byte_range(self, start: int, stop: int) -> tuple[int, int]:
        """Return the offset in the file and the size, in bytes, of a range of elements."""
        if not 0 <= start <= stop <= self.length:
            raise IndexError(f"elements {start} to {stop} of a tensor of {self.length}")
        return self.offset_bytes + start * self.itemsize, (stop - start) * self.itemsize


class SafetensorsSink:
    """The files of one output checkpoint.

    Every method is safe to call from several threads. Ranges that are never written read as zeros.

    Parameters
    ----------
    layout
        What goes where.
    folder
        The folder of the files that `create` made, now or in an earlier run.

    Raises
    ------
    OSError
        If a file is not there or has another size.

    """

    def __init__(self, layout: SafetensorsLayout, folder: Path) -> None:
        self.layout = layout
        self.folder = folder
        absolute = folder.absolute()
        self._files = [find_file(absolute / shard.file_name, shard.size_bytes) for shard in layout.shards]

    @classmethod
    def create(cls, layout: SafetensorsLayout, folder: Path) -> Self:
        """Create all files in an existing folder, durably: headers, index, and room for the data.

        Raises
        ------
        FileExistsError
            If one of the files is already there.
        OSError
            If the disk is full or the folder cannot be written.

        """
        for shard in layout.shards:
            create_file(folder / shard.file_name, shard.header, shard.size_bytes)
        if layout.index is not None:
            create_file(folder / INDEX_NAME, layout.index, len(layout.index))
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return cls(layout, folder)

    def slot(self, tensor_index: int) -> FileSlot:
        """Return the place of a tensor, which also other processes can write to."""
        tensor = self.layout.tensors[tensor_index]
        file = self._files[tensor.shard]
        return FileSlot(file, tensor.offset_bytes, tensor.length, tensor.dtype.itemsize)

    def write(self, tensor_index: int, start: int, data: NDArray[Any] | bytes | memoryview) -> None:
        """Write consecutive elements of a tensor, from element `start` on: see `FileSlot.write`."""
        self.slot(tensor_index).write(start, data)

    def start_flush(self, tensor_index: int, start: int, stop: int) -> None:
        """Begin writing a range's dirty pages to disk, without waiting, so that `commit` waits less."""
        slot = self.slot(tensor_index)
        with borrow(slot.file) as descriptor:
            start_writeback(descriptor, *slot.byte_range(start, stop))

    def commit(self, ranges: Iterable[WrittenRange]) -> None:
        """Make written ranges durable, and let go of their pages in the page cache.

        When it returns, the ranges survive a crash of the machine, whichever process wrote them.

        Raises
        ------
        OSError
            If the disk is full or fails; the ranges may then be lost.

        """
        places: defaultdict[OutFile, list[tuple[int, int]]] = defaultdict(list)
        for tensor_index, start, stop in ranges:
            slot = self.slot(tensor_index)
            places[slot.file].append(slot.byte_range(start, stop))
        for file, written in places.items():
            with borrow(file) as descriptor:
                _make_durable(descriptor)
                for offset_bytes, size_bytes in _join_adjacent(written):
                    drop_cached(descriptor, offset_bytes, size_bytes)

    def close(self) -> None:
        """Close all files. Nothing is flushed: only what was committed is durable."""
        close_files(self._files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make_durable(descriptor: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def _join_adjacent(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge (offset, size) ranges that touch: a page shared by two would otherwise be dropped by neither."""
    joined: list[tuple[int, int]] = []
    for offset, size in sorted(places):
        if joined and sum(joined[-1]) >= offset:
            begin = joined[-1][0]
            joined[-1] = (begin, max(sum(joined[-1]), offset + size) - begin)
        else:
            joined.append((offset, size))
    return joined
