"""Reading small files whole, out of folders that are not trusted."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_at_most(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file, or the first `limit_bytes` of it.

    Raises
    ------
    OSError
        If it cannot be read, or is no regular file: a named pipe would hang the program, a device never end.

    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit_bytes)
    finally:
        os.close(descriptor)
