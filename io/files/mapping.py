"""Read-only memory maps of checkpoint files, and sources that read tensors from them.

A map takes address space, but no memory: a page becomes resident when it is touched, until `MappedSource.release`
frees it. It then stays in the page cache until the kernel evicts it.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dovetail.io.errors import ChangedFileError, MissingFileError, system_limit
from dovetail.io.files.smallfile import open_descriptor
from dovetail.io.files.system import MADV_DONTNEED, MADV_POPULATE_READ, MADV_WILLNEED, advise
from dovetail.io.source import MappedBytes, checked_source, out_of_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

RELEASE_GRANULE_BYTES: Final = 2 * 2**20
"""Most bytes that become resident when one page is touched: Linux may map a whole large folio at once."""

_MAX_OPEN_FILES: Final = 128  # each open map holds a file descriptor, and a process often may have only 1,024


class MappedFile:
    """A read-only map of one file.

    The map closes by itself when the last array that views it is gone. A `MappedFile` can therefore be dropped at any
    time, even while another thread reads from it.

    Parameters
    ----------
    path
        The file.
    size_bytes, mtime_ns
        Size and modification time that the file must have.

    Raises
    ------
    ChangedFileError
        If the file's size or modification time differs.
    MissingFileError
        If the file cannot be opened or mapped.
    SystemLimitError
        If the system has no more open files or memory for this process.

    """

    __slots__ = ("_address", "_map", "array", "path")

    def __init__(self, path: str, size_bytes: int, mtime_ns: int) -> None:
        self.path = path
        try:
            self._map = _map_whole(path, size_bytes, mtime_ns)
        except OSError as error:
            raise system_limit(error, path) or MissingFileError(
                f"cannot open {path} ({error.strerror})",
                "the file that was there when the checkpoint was opened",
                "put it back and run again",
            ) from error
        self.array: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self._address = int(self.array.__array_interface__["data"][0])

    def advise(self, begin: int, end: int, option: int, granule_bytes: int) -> bool:
        """Give the kernel advice about bytes ``[begin, end)``, rounded outwards to whole granules.

        Returns
        -------
        bool
            Whether the system took the advice.

        Raises
        ------
        ChangedFileError
            If the advice is to read the bytes, and they cannot be read.

        """
        begin -= begin % granule_bytes
        end = min(end + -end % granule_bytes, self.array.size)
        if end <= begin:
            return True
        try:
            return advise(self._address + begin, end - begin, option)
        except OSError as error:
            raise ChangedFileError(
                f"{self.path} can no longer be read at bytes {begin} to {end} ({self._reason(error)})",
                f"{self.array.size} bytes of data",
                "check that the file was not cut short, and check the disk",
            ) from error

    def _reason(self, error: OSError) -> str:
        """Say why pages cannot be read, because the system's own words, "bad address", do not help a user."""
        try:
            size = os.stat(self.path).st_size  # noqa: PTH116 - a string
        except OSError:
            return str(error.strerror)
        return "the disk fails" if size >= self.array.size else f"it was cut short to {size} bytes"


def _map_whole(path: str, size_bytes: int, mtime_ns: int) -> mmap.mmap:
    descriptor = open_descriptor(path, os.O_RDONLY)
    try:
        check_same(path, os.fstat(descriptor), size_bytes, mtime_ns)
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def check_same(path: str, status: os.stat_result, size_bytes: int, mtime_ns: int) -> None:
    """Refuse a file that is not as it was when its checkpoint was opened.

    Raises
    ------
    ChangedFileError
        Its size or modification time differs.

    """
    if (status.st_size, status.st_mtime_ns) != (size_bytes, mtime_ns):
        raise ChangedFileError(
            f"{path} changed since the checkpoint was opened: "
            f"{status.st_size} bytes, modified at {status.st_mtime_ns} ns",
            f"{size_bytes} bytes, modified at {mtime_ns} ns",
            "leave checkpoints alone while they are read, and run again",
        )


_open_files: OrderedDict[tuple[str, int, int], MappedFile] = OrderedDict()
_open_files_lock = threading.Lock()


def mapped_file(path: str, size_bytes: int, mtime_ns: int) -> MappedFile:
    """Return the map of a file from this process's cache, or map the file.

    The cache drops the least recently used maps beyond a fixed number, so that a checkpoint with any number of shards
    stays within the limit on open files. Raises as `MappedFile` does.
    """
    key = (path, size_bytes, mtime_ns)
    with _open_files_lock:
        if (found := _open_files.get(key)) is not None:
            _open_files.move_to_end(key)
            return found
        _open_files[key] = opened = MappedFile(path, size_bytes, mtime_ns)
        while len(_open_files) > _MAX_OPEN_FILES:
            _open_files.popitem(last=False)
        return opened


def forget_files() -> None:
    """Close the maps of this process that nothing reads any more; a file that was removed then gives its room back.

    Whoever reads a file later, or at the same time on another thread, has it mapped again.
    """
    with _open_files_lock:
        _open_files.clear()


def _reset() -> None:
    """Make a new lock in a forked process: a thread that held the old one when the process forked is not in it."""
    global _open_files_lock
    _open_files_lock = threading.Lock()


os.register_at_fork(after_in_child=_reset)


@checked_source
class MappedSource(NamedTuple):  # faster to make than a frozen dataclass, and there can be a million
    """A tensor with elements that lie, one after another, in a memory-mapped file."""

    path: str
    """The file."""
    offset_bytes: int
    """Position of the first element in the file."""
    length: int
    """Number of elements."""
    itemsize: int
    """Size of one element in bytes."""
    file_size_bytes: int
    """Size that the file must have."""
    file_mtime_ns: int
    """Modification time that the file must have, in nanoseconds since 1970."""

    @property
    def copies(self) -> bool:
        """Whether `read` copies elements, as it must if they are not aligned in the file."""
        return self.offset_bytes % self.itemsize != 0

    @property
    def scratch_bytes(self) -> int:
        """Zero, because a read takes no memory besides pages of the file and the copy."""
        return 0

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of elements ``[start, stop)``.

        Returns
        -------
        uint8[(stop - start) * itemsize]
            Read-only. A view of the map, or a copy if the elements are not aligned in the file.

        Raises
        ------
        ChangedFileError, MissingFileError
            If the file has changed since the checkpoint was opened, or cannot be opened.
        IndexError
            If the range is not within the tensor.

        """
        begin, end = self._byte_range(start, stop)
        if begin == end:
            return _EMPTY
        view = self._file().array[begin:end]
        if self.copies:
            view = view.copy()
            view.flags.writeable = False
        return view

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range from disk, without waiting for it."""
        self._advise(start, stop, MADV_WILLNEED, mmap.PAGESIZE)

    def populate(self, start: int, stop: int) -> bool:
        """Make a range resident now, waiting for the disk, without holding the interpreter lock.

        Returns
        -------
        bool
            ``False`` if the system cannot do this (Linux before 5.14); pages are then read one by one as they are
            touched.

        Raises
        ------
        ChangedFileError
            If the file was cut short or the disk fails. Touching the map would kill the process.

        """
        return self._advise(start, stop, MADV_POPULATE_READ, mmap.PAGESIZE)

    def release(self, start: int, stop: int) -> None:
        """Free the resident pages of a range.

        The range is rounded outwards to `RELEASE_GRANULE_BYTES`, because reading it may have made that much resident.
        Neighbouring pages that are in use come back from the page cache when they are touched.
        """
        self._advise(start, stop, MADV_DONTNEED, RELEASE_GRANULE_BYTES)

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes:
        """Give the bytes of the file that a range consists of."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        # Computed here rather than by calling `_byte_range`, to save time: this runs twice for each small tensor.
        first, itemsize = self.offset_bytes, self.itemsize
        begin, end = first + start * itemsize, first + stop * itemsize
        return MappedBytes(self.path, self.file_size_bytes, self.file_mtime_ns, begin, end)

    def decoding(self, start: int, stop: int) -> None:
        """Give None, because nothing is stored in chunks."""

    def stored_objects(self) -> None:
        """Give None, because the file may hold other tensors too."""

    def _advise(self, start: int, stop: int, option: int, granule_bytes: int) -> bool:
        begin, end = self._byte_range(start, stop)
        return begin == end or self._file().advise(begin, end, option, granule_bytes)

    def _file(self) -> MappedFile:
        return mapped_file(self.path, self.file_size_bytes, self.file_mtime_ns)

    def _byte_range(self, start: int, stop: int) -> tuple[int, int]:
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        return self.offset_bytes + start * self.itemsize, self.offset_bytes + stop * self.itemsize


_EMPTY: Final = np.empty(0, np.uint8)
_EMPTY.flags.writeable = False
