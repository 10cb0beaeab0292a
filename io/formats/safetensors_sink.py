"""Writing a planned safetensors checkpoint: any range of any tensor, in any order, from any thread."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dovetail.io.files.durable import sync_folder
from dovetail.io.files.outfile import FileSlot, OutFile, borrow, close_files, create_file, find_file
from dovetail.io.files.system import drop_cached
from dovetail.io.formats.safetensors_layout import INDEX_NAME, SafetensorsLayout
from dovetail.io.source import WrittenRange

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        sync_folder(folder)
        return cls(layout, folder)

    def slot(self, tensor_index: int) -> FileSlot:
        """Return the place of a tensor, which also other processes can write to."""
        tensor = self.layout.tensors[tensor_index]
        file = self._files[tensor.shard]
        return FileSlot(file, tensor.offset_bytes, tensor.length, tensor.dtype.itemsize)

    def write(self, tensor_index: int, start: int, data: NDArray[Any] | bytes | memoryview) -> None:
        """Write consecutive elements of a tensor, from element `start` on: see `FileSlot.write`."""
        self.slot(tensor_index).write(start, data)

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
