"""Read-only memory maps of checkpoint files, and tensors as ranges of them.

A map costs address space, not memory: pages become resident when they are touched, and `MappedSource.release`
hands them back. They stay in the page cache, where they are the kernel's to evict.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.errors import ChangedFileError, MissingFileError
from dovetail.io.files.system import MADV_DONTNEED, MADV_POPULATE_READ, MADV_WILLNEED, advise
from dovetail.io.source import MappedBytes, checked_source, out_of_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

RELEASE_GRANULE_BYTES: Final = 2 * 2**20
"""Touching one page can make this much resident, in bytes: Linux may map a whole large folio at once."""

_MAX_OPEN_FILES: Final = 128  # each open map holds a file descriptor, of which there are often only 1,024


class MappedFile:
    """A read-only map of one file.

    The map closes by itself when the last array that views it is gone, so that dropping a `MappedFile` is
    always safe, also while another thread still reads.

    Parameters
    ----------
    path
        The file.
    size_bytes, mtime_ns
        Size and modification time that it must have.

    Raises
    ------
    ChangedFileError
        If the file's size or time differ.
    MissingFileError
        If the file cannot be opened.

    """

    __slots__ = ("_address", "_map", "array", "path")

    def __init__(self, path: str, size_bytes: int, mtime_ns: int) -> None:
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MissingFileError(
                f"cannot open {path} ({error.strerror})",
                "the file that was there when the checkpoint was opened",
                "put it back and run again",
            ) from error
        try:
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != (size_bytes, mtime_ns):
                raise ChangedFileError(
                    f"{path} changed since the checkpoint was opened: "
                    f"{status.st_size} bytes, modified at {status.st_mtime_ns} ns",
                    f"{size_bytes} bytes, modified at {mtime_ns} ns",
                    "leave checkpoints alone while they are read, and run again",
                )
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self.array: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self._address = int(self.array.__array_interface__["data"][0])

    def advise(self, begin: int, end: int, option: int, granule_bytes: int) -> bool:
        """Give the kernel advice about bytes ``[begin, end)``, rounded outwards to whole granules."""
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
        """Say why pages cannot be read: the system's "bad address" tells nobody anything."""
        try:
            size = os.stat(self.path).st_size  # noqa: PTH116 - a string
        except OSError:
            return str(error.strerror)
        return "the disk fails" if size >= self.array.size else f"it was cut short to {size} bytes"


_open_files: OrderedDict[tuple[str, int, int], MappedFile] = OrderedDict()
_open_files_lock = threading.Lock()


def mapped_file(path: str, size_bytes: int, mtime_ns: int) -> MappedFile:
    """Return the map of a file from this process's cache, opening it if needed.

    The least recently used maps are dropped beyond a fixed number, so that a checkpoint of any number of
    shards stays within the limit on open files.
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


def _reset() -> None:
    """Begin anew in a process that was forked: another thread of the parent may hold the lock, and is not here."""
    global _open_files_lock
    _open_files_lock = threading.Lock()


os.register_at_fork(after_in_child=_reset)


@checked_source
@dataclass(frozen=True, slots=True)
class MappedSource:
    """A tensor's elements as a range of a memory-mapped file."""

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
        """Whether `read` has to copy: the file does not keep elements aligned."""
        return self.offset_bytes % self.itemsize != 0

    @property
    def scratch_bytes(self) -> int:
        """Zero: a read takes nothing beyond pages of the file and the copy."""
        return 0

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of elements ``[start, stop)``.

        Returns
        -------
        uint8[(stop - start) * itemsize]
            Read-only. A view of the map, or, where the file does not keep elements aligned, a copy.

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
            ``False`` where the system cannot (before Linux 5.14); reading then faults pages in one by one.

        Raises
        ------
        ChangedFileError
            If the file was cut short or the disk fails: touching the map would kill the process.

        """
        return self._advise(start, stop, MADV_POPULATE_READ, mmap.PAGESIZE)

    def release(self, start: int, stop: int) -> None:
        """Let go of a range's resident pages.

        The range is rounded outwards to `RELEASE_GRANULE_BYTES`, as reading it may have made so much
        resident. Neighbours that are in use come back from the page cache when they are touched.
        """
        self._advise(start, stop, MADV_DONTNEED, RELEASE_GRANULE_BYTES)

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes:
        """Say which bytes of the file a range is."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        # Positions are computed here, not by `_byte_range`: this is called twice for every tensor, however small.
        first, itemsize = self.offset_bytes, self.itemsize
        begin, end = first + start * itemsize, first + stop * itemsize
        return MappedBytes(self.path, self.file_size_bytes, self.file_mtime_ns, begin, end)

    def decoding(self, start: int, stop: int) -> None:
        """Decode nothing: bytes are stored as they are."""

    def stored_objects(self) -> None:
        """Give none: a file holds many tensors."""

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
