"""Writing a planned Zarr group: whole objects of any array, in any order, from any thread or process."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterable, Iterator
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

_MAX_OPEN_FILES: Final = 128  # many systems allow a process only 1,024


@checked_slot
@dataclass(frozen=True, slots=True)
class ArraySlot:
    """The place of one output tensor: the folder of its array."""

    folder: str
    """The array's folder."""
    inode: int
    """Inode number of the folder. A folder that later takes its name belongs to someone else, and is not written to."""
    document: bytes
    """The array's metadata, without attributes."""
    dtype_name: str
    """Name of the dtype, as in safetensors headers."""
    shape: tuple[int, ...]
    """Dimensions."""
    grid: ArrayGrid
    """How the tensor is cut."""

    def write(self, start: int, data: NDArray[Any] | bytes | memoryview) -> None:
        """Encode and write consecutive elements that make up whole objects; an existing object is replaced.

        Parameters
        ----------
        start
            Index of the first element.
        data
            Stored bytes of the elements: an array of any dtype in C order, or a buffer.

        Raises
        ------
        OSError
            If the disk is full or fails, or the folder is gone.
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
        """List the files of the objects that elements ``[start, stop)`` make up."""
        for position, _, _ in self._objects(start, stop):
            yield f"{self.folder}/{self.key(position)}"

    @staticmethod
    def key(position: tuple[int, ...]) -> str:
        """Name the file of an object."""
        return ".".join(("c", *map(str, position)))

    def _objects(self, start: int, stop: int) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """List the position and the elements of every object in a range of elements."""
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
        """Shape the elements of an object, adding zeros where the object reaches beyond the tensor."""
        shape = self.grid.object_shape
        size = int(np.prod(shape, dtype=np.int64))
        if flat.size < size:  # the padding comes after the elements: see `ChunkGrid`
            padded = np.zeros(size, flat.dtype)
            padded[: flat.size] = flat
            flat = padded
        return flat.reshape(shape)


class ZarrSink:
    """The folders of one output group (a `dovetail.io.output_format.Sink`).

    Parameters
    ----------
    layout
        The layout of the group.
    folder
        The folder in which `create` made the group, in this run or in an earlier one.
    shards
        Positions in `ZarrLayout.shards` of the arrays that will be written, whose documents alone are looked at; None
        for the whole group.

    Raises
    ------
    OSError
        If the folder of an array is missing. Metadata documents that are missing or damaged are not an error, and are
        written again: a document becomes durable only with the first objects of its array, because there may be 50,000.

    """

    def __init__(self, layout: ZarrLayout, folder: Path, shards: Iterable[int] | None = None) -> None:
        self.layout = layout
        self.folder = folder.absolute()
        self._inodes: dict[int, int] = {}
        self._durable: set[int] = set()
        for number in range(len(layout.shards)) if shards is None else shards:
            shard = layout.shards[number]
            home = f"{self.folder}/{shard.file_name}"
            _mend_document(f"{home}/{GROUP_NAME}", shard.header)
            self._inodes[number] = os.stat(home).st_ino  # noqa: PTH116 - 50,000 Path objects take a while
        if shards is not None:
            return
        for name, content in layout.documents.items():
            _mend_document(f"{self.folder}/{name}", content)
            _make_durable([f"{self.folder}/{name}"])

    @classmethod
    def create(cls, layout: ZarrLayout, folder: Path) -> Self:
        """Create the folders and metadata documents of all arrays in an existing folder.

        Raises
        ------
        FileExistsError
            If one of them exists.
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

    @classmethod
    def share(cls, layout: ZarrLayout, folder: Path, shards: Iterable[int], begun: Collection[int]) -> Self:
        """Open the folders of some arrays, and create those that are not there, as others may at the same time.

        Those that have been `begun` must be there.

        Raises
        ------
        OSError
            If a folder that must be there is missing, the disk is full, or the folder cannot be written.

        """
        wanted = sorted(shards)
        for number in wanted:
            if number in begun:
                continue
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{folder}/{layout.shards[number].file_name}")  # noqa: PTH102 - as above
        sync_folder(folder)
        return cls(layout, folder, wanted)

    def slot(self, tensor_index: int) -> ArraySlot:
        """Return the slot of a tensor, through which other processes can write to it as well."""
        array, shard = self.layout.tensors[tensor_index], self.layout.shards[tensor_index]
        text = _decoding_text(array.dtype, array.shape, array.grid, shard.codec)
        home = f"{self.folder}/{shard.file_name}"
        return ArraySlot(home, self._inodes[tensor_index], text, array.dtype.name, array.shape, array.grid)

    def write(self, tensor_index: int, start: int, data: NDArray[Any] | bytes | memoryview) -> None:
        """Write consecutive elements of a tensor, from element `start` on: see `ArraySlot.write`."""
        self.slot(tensor_index).write(start, data)

    def commit(self, ranges: Iterable[WrittenRange]) -> None:
        """Make written objects and their arrays' metadata durable, and drop their pages from the page cache.

        Raises
        ------
        OSError
            If the disk is full or fails. The ranges may then be lost.

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
    """Make the metadata from which the codecs of an array are opened; arrays with equal metadata share it."""
    document = check_document(array_document(PlacedArray("", dtype, shape, 0, grid), codec), 3, "the output")
    assert document is not None
    return document.text


def _write_file(folder: int, name: str, content: NDArray[np.uint8]) -> None:
    # Not emptied first: who writes an object that another process has written already writes the same bytes over it.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    descriptor = os.open(name, flags, 0o666, dir_fd=folder)
    try:
        write_all(descriptor, content.data.cast("B"), 0)
        if os.fstat(descriptor).st_size != content.size:
            os.ftruncate(descriptor, content.size)
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
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a named pipe is an error, and not waited for
    with open(os.open(path, flags, 0o666), "r+b") as file, naming(path):  # noqa: PTH123
        if file.read() != content:
            file.seek(0)
            file.write(content)
            file.truncate()  # last, because others may write the same document at the same time


def _make_durable(paths: list[str]) -> None:
    """Write files to disk, all at the same time, and drop their pages from the page cache."""
    opened: list[tuple[str, int]] = []
    try:
        for path in paths:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            opened.append((path, descriptor))  # at once, so that it is closed if another fails
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
