"""Reading small parts of files without mapping them.

A page of a map that is touched brings its neighbours with it, and thousands of single pages cost as many calls to free
them. Here the parts are copied, the disk is asked for all of them at once, and nothing around them is read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dovetail.io.errors import ChangedFileError, MissingFileError, system_limit
from dovetail.io.files.mapping import check_same
from dovetail.io.files.smallfile import open_descriptor
from dovetail.io.source import MappedBytes

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_runs(whole: MappedBytes, runs: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    """Read parts of a range of a file.

    Parameters
    ----------
    whole
        The range.
    runs
        First byte of each part and one past its last, within the range, ascending.

    Returns
    -------
    uint8 array
        The bytes of the parts, one after another.

    Raises
    ------
    ChangedFileError
        The file has changed since it was opened first, was cut short, or the disk fails.
    MissingFileError
        The file cannot be opened.
    SystemLimitError
        The system has no more open files for this process.

    """
    path = whole.path
    try:
        descriptor = open_descriptor(path, os.O_RDONLY)
    except OSError as error:
        raise system_limit(error, path) or MissingFileError(
            f"cannot open {path} ({error.strerror})",
            "the file that was there when the checkpoint was opened",
            "put it back and run again",
        ) from error
    try:
        check_same(path, os.fstat(descriptor), whole.file_size_bytes, whole.file_mtime_ns)
        with contextlib.suppress(OSError):  # file systems may know no advice
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            for start, stop in runs:
                os.posix_fadvise(descriptor, whole.begin + start, stop - start, os.POSIX_FADV_WILLNEED)
        buffer, place = np.empty(sum([stop - start for start, stop in runs]), np.uint8), 0
        view = buffer.data
        for start, stop in runs:
            _read(descriptor, whole, start, view[place : place + stop - start])
            place += stop - start
        return buffer
    finally:
        os.close(descriptor)


def _read(descriptor: int, whole: MappedBytes, start: int, part: memoryview) -> None:
    done = 0
    while done < len(part):
        try:
            count = os.preadv(descriptor, [part[done:]], whole.begin + start + done)
        except OSError as error:
            raise _unreadable(whole, str(error.strerror)) from error
        if count == 0:
            raise _unreadable(whole, "it was cut short")
        done += count


def _unreadable(whole: MappedBytes, reason: str) -> ChangedFileError:
    return ChangedFileError(
        f"{whole.path} can no longer be read at bytes {whole.begin} to {whole.end} ({reason})",
        f"{whole.file_size_bytes} bytes of data",
        "check that the file was not cut short, and check the disk",
    )
