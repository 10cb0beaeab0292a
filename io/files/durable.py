"""Making folders and whole files durable, so that they survive a crash of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dovetail.io.files.outfile import naming


def sync_folder(folder: str | Path) -> None:
    """Make the entries of a folder durable: the names of the files in it.

    Raises
    ------
    OSError
        If the disk fails or the folder is gone; the error names the folder.

    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a whole file, from all of its bytes or from parts in order, and make it durable.

    Raises
    ------
    OSError
        If the disk is full or fails; the error names the file.

    """
    with naming(path), path.open("wb") as file:
        for piece in (data,) if isinstance(data, bytes) else data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
