"""Writing a planned safetensors checkpoint, in any order of tensors and ranges, from any number of threads."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dovetail.io.files.durable import sync_folder
from dovetail.io.files.outfile import FileSlot, OutFile, borrow, close_files, create_file, ensure_file, find_file
from dovetail.io.files.system import drop_cached
from dovetail.io.formats.safetensors_layout import INDEX_NAME, SafetensorsLayout
from dovetail.io.source import WrittenRange

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SafetensorsSink:
    """The files of one output that is being written (a `dovetail.io.output_format.Sink`).

    Every method may be called from several threads at once. Ranges that are never written read as zeros.

    Parameters
    ----------
    layout
        The files, and the places of all tensors in them.
    folder
        The folder in which `create` has made the files, in this run or an earlier one.
    shards
        Positions in `SafetensorsLayout.shards` of the files that will be written; None for all.

    Raises
    ------
    OSError
        If a file is missing or has another size.

    """

    def __init__(self, layout: SafetensorsLayout, folder: Path, shards: Iterable[int] | None = None) -> None:
        self.layout = layout
        self.folder = folder
        absolute = folder.absolute()
        wanted = range(len(layout.shards)) if shards is None else shards
        found = {number: layout.shards[number] for number in wanted}
        self._files = {
            number: find_file(absolute / shard.file_name, shard.size_bytes) for number, shard in found.items()
        }

    @classmethod
    def create(cls, layout: SafetensorsLayout, folder: Path) -> Self:
        """Create all files in an existing folder, durably, with their headers, the index, and zeros for the data.

        Raises
        ------
        FileExistsError
            If one of the files exists already.
        OSError
            If the disk is full or the folder cannot be written.

        """
        for shard in layout.shards:
            create_file(folder / shard.file_name, shard.header, shard.size_bytes)
        if layout.index is not None:
            create_file(folder / INDEX_NAME, layout.index, len(layout.index))
        sync_folder(folder)
        return cls(layout, folder)

    @classmethod
    def share(cls, layout: SafetensorsLayout, folder: Path, shards: Iterable[int], begun: Collection[int]) -> Self:
        """Open some files, and create those that are not there, as others may at the same time; leave out the index.

        Those that have been `begun` must be there.

        Raises
        ------
        OSError
            If a file that must be there is missing or has another size, the disk is full, or the folder cannot be
            written.

        """
        wanted = sorted(shards)
        for number in wanted:
            shard = layout.shards[number]
            if number in begun:
                find_file(folder / shard.file_name, shard.size_bytes)
            ensure_file(folder / shard.file_name, shard.header, shard.size_bytes)
        sync_folder(folder)
        return cls(layout, folder, wanted)

    def slot(self, tensor_index: int) -> FileSlot:
        """Return the slot through which a tensor is written, by this process or others."""
        tensor = self.layout.tensors[tensor_index]
        file = self._files[tensor.shard]
        return FileSlot(file, tensor.offset_bytes, tensor.length, tensor.dtype.itemsize)

    def write(self, tensor_index: int, start: int, data: NDArray[Any] | bytes | memoryview) -> None:
        """Write consecutive elements of a tensor, from element `start` on, as `FileSlot.write` does."""
        self.slot(tensor_index).write(start, data)

    def commit(self, ranges: Iterable[WrittenRange]) -> None:
        """Make written ranges durable, and drop their pages from the page cache.

        After the call the ranges survive a crash of the machine, whichever process wrote them.

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
        """Close all files, without flushing them: only ranges that were committed are durable."""
        close_files(self._files.values())

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
    """Join ranges, given as offset and size, that touch: the system drops no page that lies in a range only partly."""
    joined: list[tuple[int, int]] = []
    for offset, size in sorted(places):
        if joined and sum(joined[-1]) >= offset:
            begin = joined[-1][0]
            joined[-1] = (begin, max(sum(joined[-1]), offset + size) - begin)
        else:
            joined.append((offset, size))
    return joined
