"""Writing a planned Zarr group: whole objects of any array, in any order, from any thread."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from dovetail.io.dtypes import DTYPES, DType, to_numpy
from dovetail.io.files.durable import sync_folder
from dovetail.io.files.outfile import naming, write_all
from dovetail.io.files.system import drop_cached, start_writeback
from dovetail.io.source import checked_slot
from dovetail.io.zarr.chunking import ChunkGrid
from dovetail.io.zarr.document import check_document
from dovetail.io.zarr.layout import GROUP_NAME, ArrayGrid, PlacedArray, ZarrLayout, array_document

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dovetail.io.source import WrittenRange

_MAX_OPEN_FILES: Final = 128  # of the often only 1,024 that a process may have


@checked_slot
@dataclass(frozen=True, slots=True)
class ArraySlot:
    """The place of one output tensor: the folder of its array."""

    folder: str
    """The array's folder."""
    inode: int
    """Its inode number. A later folder of the same name is another's, and must not receive its writes."""
    document: bytes
    """The array's metadata, without attributes."""
    dtype_name: str
    """Dtype, by safetensors name."""
    shape: tuple[int, ...]
    """Dimensions."""
    grid: ArrayGrid
    """How the tensor is cut."""

    def write(self, start: int, data: NDArray[Any] | bytes | memoryview) -> None:
        """Encode and write consecutive elements that are whole objects; an object that is there is replaced.

        Parameters
        ----------
        start
            First element to write.
        data
            Their stored bytes: an array of any dtype in C order, or a buffer.

        Raises
        ------
        OSError
            If the disk is full or fails, or the folder is no longer there.
        ValueError
            If the bytes are not whole elements, or the elements are not whole objects.

        """
        if not isinstance(data, np.ndarray):
            data = np.frombuffer(data, np.uint8)
        raw, stored = np.ascontiguousarray(data).reshape(-1).view(np.uint8), to_numpy(DTYPES[self.dtype_name])
        if raw.size % stored.itemsize:
            raise ValueError(f"{raw.size} bytes are no whole number of {stored.itemsize}-byte elements")
        flat = raw.view(stored)
        if not flat.size:
            return
        from dovetail.io.zarr.codecs import encode_object

        objects = list(self._objects(start, start + flat.size))
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_ino != self.inode:
                raise FileNotFoundError(errno.ENOENT, "another folder has taken the place of the output", self.folder)
            for position, begin, end in objects:
                chunk = self._padded(flat[begin - start : end - start])
                encoded = encode_object(self.document, self.grid.chunk_shape, self.grid.object_shape, chunk)
                key = self.key(position)
                with naming(f"{self.folder}/{key}"):
                    _write_file(descriptor, key, encoded)
        finally:
            os.close(descriptor)

    def file_place(self, start: int, stop: int) -> None:
        """Give none: every object is a file."""

    def paths(self, start: int, stop: int) -> Iterator[str]:
        """Give the files of the objects that elements ``[start, stop)`` are."""
        for position, _, _ in self._objects(start, stop):
            yield f"{self.folder}/{self.key(position)}"

    @staticmethod
    def key(position: tuple[int, ...]) -> str:
        """Give the name of an object's file."""
        return ".".join(("c", *map(str, position)))

    def _objects(self, start: int, stop: int) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """Give position and range of every object in a range."""
        grid = ChunkGrid(self.shape, self.grid.object_shape)
        begin = start
        while begin < stop:
            position = grid.find(begin)
            first, end = grid.element_range(position)
            if first != begin or end > stop:
                raise ValueError(f"elements {start} to {stop} are no whole objects; one is {first} to {end}")
            yield position, begin, end
            begin = end

    def _padded(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Give an object's elements its shape, filled with zeros where it reaches beyond the tensor."""
        shape = self.grid.object_shape
        size = int(np.prod(shape, dtype=np.int64))
        if flat.size < size:  # the padding comes after the elements: see `ChunkGrid`
            padded = np.zeros(size, flat.dtype)
            padded[: flat.size] = flat
            flat = padded
        return flat.reshape(shape)


class ZarrSink:
    """The folders of one output group (a `dovetail.io.output.Sink`).

    Parameters
    ----------
    layout
        What goes where.
    folder
        The folder of what `create` made, now or in an earlier run.

    Raises
    ------
    OSError
        If a folder is not there. Metadata documents that are not, or not whole, are written again: they become
        durable with the first objects of their array, as there may be 50,000.

    """

    def __init__(self, layout: ZarrLayout, folder: Path) -> None:
        self.layout = layout
        self.folder = folder.absolute()
        self._inodes: list[int] = []
        self._durable: set[int] = set()
        for shard in layout.shards:
            home = f"{self.folder}/{shard.file_name}"
            _mend_document(f"{home}/{GROUP_NAME}", shard.header)
            self._inodes.append(os.stat(home).st_ino)  # noqa: PTH116 - 50,000 Path objects take a while
        for name, content in layout.documents.items():
            _mend_document(f"{self.folder}/{name}", content)
            _make_durable([f"{self.folder}/{name}"])

    @classmethod
    def create(cls, layout: ZarrLayout, folder: Path) -> Self:
        """Create all folders and metadata documents in an existing folder.

        Raises
        ------
        FileExistsError
            If one of them is already there.
        OSError
            If the disk is full or the folder cannot be written.

        """
        for shard in layout.shards:
            home = f"{folder}/{shard.file_name}"
            os.mkdir(home)  # noqa: PTH102 - 50,000 Path objects take a while
            _create_document(f"{home}/{GROUP_NAME}", shard.header)
        for name, content in layout.documents.items():
            _create_document(f"{folder}/{name}", content)
        sync_folder(folder)
        return cls(layout, folder)

    def slot(self, tensor_index: int) -> ArraySlot:
        """Return the place of a tensor, which also other processes can write to."""
        array, shard = self.layout.tensors[tensor_index], self.layout.shards[tensor_index]
        text = _decoding_text(array.dtype, array.shape, array.grid, shard.codec)
        home = f"{self.folder}/{shard.file_name}"
        return ArraySlot(home, self._inodes[tensor_index], text, array.dtype.name, array.shape, array.grid)

    def write(self, tensor_index: int, start: int, data: NDArray[Any] | bytes | memoryview) -> None:
        """Write consecutive elements of a tensor, from element `start` on: see `ArraySlot.write`."""
        self.slot(tensor_index).write(start, data)

    def commit(self, ranges: Iterable[WrittenRange]) -> None:
        """Make written objects and what describes them durable, and let go of their pages in the page cache.

        Raises
        ------
        OSError
            If the disk is full or fails; the ranges may then be lost.

        """
        homes: dict[str, None] = {}
        paths: list[str] = []
        described: set[int] = set()
        for tensor_index, start, stop in ranges:
            slot = self.slot(tensor_index)
            homes[slot.folder] = None
            paths += slot.paths(start, stop)
            if tensor_index not in self._durable | described:
                described.add(tensor_index)
                paths.append(f"{slot.folder}/{GROUP_NAME}")
        batches = iter(paths)
        while batch := list(islice(batches, _MAX_OPEN_FILES)):
            _make_durable(batch)
        for home in (*homes, *([str(self.folder)] if described else [])):
            sync_folder(home)
        self._durable |= described

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@lru_cache(maxsize=4096)
def _decoding_text(dtype: DType, shape: tuple[int, ...], grid: ArrayGrid, codec: str) -> bytes:
    """Give what codecs are opened by, which arrays that are alike share."""
    document = check_document(array_document(PlacedArray("", dtype, shape, 0, grid), codec), 3, "the output")
    assert document is not None
    return document.text


def _write_file(folder: int, name: str, content: NDArray[np.uint8]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(name, flags, 0o666, dir_fd=folder)
    try:
        write_all(descriptor, content.data.cast("B"), 0)
    finally:
        os.close(descriptor)


def _create_document(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with naming(path):
            write_all(descriptor, memoryview(content), 0)
    finally:
        os.close(descriptor)


def _mend_document(path: str, content: bytes) -> None:
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file, naming(path):  # noqa: PTH123
        if file.read() != content:
            file.seek(0)
            file.truncate()
            file.write(content)


def _make_durable(paths: list[str]) -> None:
    """Write files to disk, all at a time, and let go of their pages."""
    opened: list[tuple[str, int]] = []
    try:
        for path in paths:
            opened.append((path, os.open(path, os.O_WRONLY | os.O_CLOEXEC)))  # noqa: PERF401 - closed if one fails
        for path, descriptor in opened:
            with naming(path):
                start_writeback(descriptor, 0, os.fstat(descriptor).st_size)
        for path, descriptor in opened:
            with naming(path):
                os.fsync(descriptor)
                drop_cached(descriptor, 0, os.fstat(descriptor).st_size)
    finally:
        for _, descriptor in opened:
            os.close(descriptor)
