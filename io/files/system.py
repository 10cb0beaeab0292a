"""Linux calls that Python does not have, or makes while it holds the interpreter lock.

Each call is a hint to the kernel about memory or disk, so that on a system without the call it is right to do nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from typing import Any, Final

MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_POPULATE_READ: Final = 22

_SYNC_FILE_RANGE_WRITE: Final = 2
_EHWPOISON: Final = 133  # only Linux has it, so that type checkers may not know errno.EHWPOISON
_UNREADABLE: Final = (errno.EFAULT, errno.EIO, _EHWPOISON)
_UNAVAILABLE: Final = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ESPIPE, errno.EOPNOTSUPP)


@cache
def _function(name: str, *argument_types: Any) -> Any:
    """Find a function of the C library; ``None`` if the library does not have it."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes = argument_types
        function.restype = ctypes.c_int
    return function


def advise(address: int, size_bytes: int, option: int) -> bool:
    """Call ``madvise`` on this process's memory at a page-aligned `address`.

    `mmap.madvise` does the same, but holds the interpreter lock while the kernel waits for the disk.

    Returns
    -------
    bool
        Whether the system took the advice.

    Raises
    ------
    OSError
        If `option` is `MADV_POPULATE_READ` and the pages cannot be read.

    """
    madvise = _function("madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if madvise is None:
        return False
    if madvise(address, size_bytes, option) == 0:
        return True
    code = ctypes.get_errno()
    if option == MADV_POPULATE_READ and code in _UNREADABLE:
        raise OSError(code, os.strerror(code))
    return False


def start_writeback(descriptor: int, offset_bytes: int, size_bytes: int) -> bool:
    """Ask the kernel to begin writing a range's dirty pages to disk, without waiting for them.

    Returns
    -------
    bool
        Whether the system took the request.

    Raises
    ------
    OSError
        If the disk is full or fails.

    """
    sync_file_range = _function("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    if sync_file_range is None or size_bytes == 0:  # a size of 0 would mean "to the end of the file"
        return False
    if sync_file_range(descriptor, offset_bytes, size_bytes, _SYNC_FILE_RANGE_WRITE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNAVAILABLE:
        return False
    raise OSError(code, os.strerror(code))


def drop_cached(descriptor: int, offset_bytes: int, size_bytes: int) -> None:
    """Ask the kernel to drop a range's clean pages from the page cache."""
    if hasattr(os, "posix_fadvise") and size_bytes > 0:
        os.posix_fadvise(descriptor, offset_bytes, size_bytes, os.POSIX_FADV_DONTNEED)


def trim_heap() -> None:
    """Return memory that the C library keeps for later use to the system, if the library can do that."""
    trim = _function("malloc_trim", ctypes.c_size_t)
    if trim is not None:
        trim(0)
