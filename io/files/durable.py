"""Making folders and whole files durable, so that they survive a crash of the machine."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from dovetail.io.files.outfile import naming
from dovetail.io.files.smallfile import is_named, without_waiting


def sync_folder(folder: str | Path) -> None:
    """Make the entries of a folder durable: the names of the files in it.

    Raises
    ------
    OSError
        If the disk fails or the folder is gone; the error names the folder.

    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it.

    Raises
    ------
    OSError
        It is no folder, or cannot be removed. `shutil.rmtree` would wait for the other end of a named pipe.

    """
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    shutil.rmtree(folder)


def remove_if_there(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; another process may be removing it too.

    Raises
    ------
    OSError
        It cannot be removed.

    """
    while is_named(path):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()


def write_durably(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a whole file, from all of its bytes or from parts in order, and make it durable.

    Raises
    ------
    OSError
        If the disk is full or fails; the error names the file.

    """
    with naming(path), open(path, "wb", opener=without_waiting) as file:
        for piece in (data,) if isinstance(data, bytes) else data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a whole file durably, so that it is there either as it was or as it is to be.

    Raises
    ------
    OSError
        If the disk is full or fails; the file is as it was.

    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_durably(partial, data)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)
