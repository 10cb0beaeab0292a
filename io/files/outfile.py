"""Output files to which all threads of a process can write at any position."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.io.source import checked_slot, out_of_range

_MAX_OPEN_FILES: Final = 128  # a process often may have only 1,024 open files


@dataclass(frozen=True, slots=True)
class OutFile:
    """The identity of one output file, which need not be open."""

    path: str
    """Path of the file."""
    inode: int
    """Inode number of the file, by which a later file of the same name is known for another, and is not written to."""

    def write(self, offset_bytes: int, data: memoryview) -> None:
        """Write bytes at a position.

        Raises
        ------
        OSError
            If the disk is full or fails, or the file is gone.

        """
        with borrow(self) as descriptor:
            write_all(descriptor, data, offset_bytes)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add a file's name to errors of the operating system in the block, which calls on descriptors leave out."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def create_file(path: Path, head: bytes, size_bytes: int) -> None:
    """Create a file of `size_bytes` that starts with `head` and is zero after it, durably.

    Raises
    ------
    FileExistsError
        If the file exists already.
    OSError
        If the disk is full or the folder cannot be written.

    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with naming(path):
            write_all(descriptor, memoryview(head), 0)
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ensure_file(path: Path, head: bytes, size_bytes: int) -> None:
    """Make sure that there is a file of `size_bytes` that starts with `head`, durably; what follows stays as it is.

    Several processes may do this for one file at the same time, and others may write what follows.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written.

    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, 0o666)
    try:
        with naming(path):
            write_all(descriptor, memoryview(head), 0)
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_file(path: Path, size_bytes: int) -> OutFile:
    """Identify an existing output file, which must have `size_bytes`.

    Raises
    ------
    OSError
        If the file is missing or has another size.

    """
    status = path.stat()
    if status.st_size != size_bytes:
        raise OSError(errno.EIO, f"file has {status.st_size} bytes instead of {size_bytes}", str(path))
    return OutFile(str(path), status.st_ino)


def write_all(descriptor: int, view: memoryview, offset_bytes: int) -> None:
    """Write a whole buffer, in several calls if the system takes less at once; it never takes 2 GiB in one call."""
    while view.nbytes:
        written = os.pwrite(descriptor, view, offset_bytes)
        if written == 0:
            raise OSError(errno.EIO, "the disk takes no more data")
        view = view[written:]
        offset_bytes += written


_lock = threading.Lock()
_descriptors: OrderedDict[OutFile, int] = OrderedDict()
_borrowers: defaultdict[OutFile, int] = defaultdict(int)


@contextlib.contextmanager
def borrow(file: OutFile) -> Iterator[int]:
    """Give the descriptor of a file, which is opened if need be, and which stays open until the end of the block.

    Raises
    ------
    OSError
        If the file is gone, or another file has taken its name.

    """
    with _lock:
        if file not in _descriptors:
            _descriptors[file] = _open(file)
        _descriptors.move_to_end(file)
        _borrowers[file] += 1
        descriptor = _descriptors[file]
        _close_idle(list(_descriptors)[: max(0, len(_descriptors) - _MAX_OPEN_FILES)])
    try:
        with naming(file.path):
            yield descriptor
    finally:
        with _lock:
            _borrowers[file] -= 1


def close_files(files: Iterable[OutFile]) -> None:
    """Close those of `files` that this process has open and that no thread is using."""
    with _lock:
        _close_idle(files)


def _open(file: OutFile) -> int:
    descriptor = os.open(file.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if os.fstat(descriptor).st_ino != file.inode:
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "another file has taken the place of the output", file.path)
    return descriptor


def _close_idle(files: Iterable[OutFile]) -> None:
    for file in files:
        if file in _descriptors and not _borrowers[file]:
            del _borrowers[file]
            os.close(_descriptors.pop(file))


def _reset() -> None:
    """Make a new lock in a forked process: a thread that held the old one when the process forked is not in it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset)


@checked_slot
@dataclass(frozen=True, slots=True)
class FileSlot:
    """The place of one output tensor in a file."""

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
            The stored bytes of the elements: an array of any dtype in C order, or a buffer.

        Raises
        ------
        OSError
            If the disk is full or fails, or the file is gone.
        ValueError
            If the bytes are not a whole number of elements.
        IndexError
            If the elements are not within the tensor.

        """
        if isinstance(data, np.ndarray):  # numpy cannot export a buffer of bfloat16
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        view = memoryview(data)
        count, rest = divmod(view.nbytes, self.itemsize)
        if rest:
            raise ValueError(f"{view.nbytes} bytes are no whole number of {self.itemsize}-byte elements")
        offset_bytes, size_bytes = self.byte_range(start, start + count)
        if size_bytes:  # a view without elements cannot be cast
            self.file.write(offset_bytes, view.cast("B"))

    def file_place(self, start: int, stop: int) -> tuple[OutFile, int]:
        """Return the file, and the position in it, in bytes, of a range of elements."""
        return self.file, self.byte_range(start, stop)[0]

    def byte_range(self, start: int, stop: int) -> tuple[int, int]:
        """Return the position in the file and the size, both in bytes, of a range of elements."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        return self.offset_bytes + start * self.itemsize, (stop - start) * self.itemsize
