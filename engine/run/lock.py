"""A lock that lets only one process at a time write an output.

The operating system holds the lock and drops it when the process ends, so that no lock outlives its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dovetail.engine.errors import OutputError
from dovetail.io.files.durable import sync_folder
from dovetail.io.files.outfile import naming

LOCK_NAME = "dovetail_lock"
"""File name of the lock in the staging folder."""


@contextlib.contextmanager
def locked(staging: Path) -> Iterator[None]:
    """Make the staging folder, and hold its lock during the block.

    Raises
    ------
    OutputError
        Another process is writing this output.

    """
    staging.mkdir(parents=True, exist_ok=True)
    sync_folder(staging.parent)  # so that the journal is found again even after a power failure
    with if_unlocked(staging) as ours:
        if not ours:
            raise OutputError(
                f"another process is writing into {staging}",
                "one process for one output",
                "wait for it to end, or choose another output folder",
            )
        yield


@contextlib.contextmanager
def if_unlocked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder during the block, unless another process holds it; give whether it is held."""
    path = folder / LOCK_NAME
    with naming(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield _take(descriptor, path)
    finally:
        with naming(path):
            os.close(descriptor)


def _take(descriptor: int, path: Path) -> bool:
    with naming(path):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
