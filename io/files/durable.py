"""Making folders and whole files durable: they survive a crash of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dovetail.io.files.outfile import naming


def sync_folder(folder: str | Path) -> None:
    """Make a folder's entries durable.

    Raises
    ------
    OSError
        If the disk fails or the folder is gone; it names the folder.

    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a whole file, given at once or in parts, and make it durable."""
    with naming(path), path.open("wb") as file:
        for piece in (data,) if isinstance(data, bytes) else data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
