"""Reading small files whole from folders that are not trusted, and telling whether files are there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from dovetail.io.errors import system_limit


def read_at_most(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file, but no more than its first `limit_bytes`.

    Raises
    ------
    OSError
        If the file cannot be read, or is not a regular file. Reading a named pipe could wait forever, and a device
        could give bytes without end.

    """
    descriptor = open_descriptor(path, os.O_RDONLY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit_bytes)
    except OSError as error:  # errors of reading do not say of which file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def without_waiting(path: str, flags: int) -> int:
    """Open a file for `open`, whose opener this is, without waiting for the other end of a named pipe."""
    return open_descriptor(path, flags)


def open_descriptor(path: Path | str, flags: int) -> int:
    """Open a file, without waiting for the other end of a named pipe; programs that are started do not inherit it.

    Raises
    ------
    SystemLimitError
        The system has no more open files or memory for this process. That is no fault of the file, so that it is no
        OSError, which would be taken for one.
    OSError
        The file cannot be opened.

    """
    try:
        # The permissions are those of files; without them it would be made executable.
        return os.open(path, flags | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if (limit := system_limit(error, path)) is not None:
            raise limit from error
        raise


def is_named(path: Path | str) -> bool:
    """Whether there is anything of a name: a file, a folder, or a link, even one that leads nowhere.

    `os.path.lexists` answers no, too, where the system cannot tell, so that a failing disk would make files disappear.

    Raises
    ------
    OSError
        The system cannot tell.

    """
    return _is_found(os.lstat, path)


def is_there(path: Path | str) -> bool:
    """Whether there is a file or a folder of a name, or a link that leads to one; raises as `is_named` does."""
    return _is_found(os.stat, path)


def look_anew(folder: Path) -> None:
    """Make a network file system look at the names in a folder anew, if there is such a folder.

    A client of NFS remembers names for up to a minute, also that a name is not there. When a folder is opened it asks
    the server whether that has changed.

    Raises
    ------
    OSError
        The system cannot open another file.

    """
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise


def _is_found(look: Callable[[Path | str], object], path: Path | str) -> bool:
    try:
        look(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no file can have such a name
        return False
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):  # nor such a one; such links lead nowhere
            return False
        raise
    return True
