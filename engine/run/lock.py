"""A lock that lets only one process at a time write an output, where the file system has locks.

The operating system holds the lock and drops it when the process ends, so that no lock outlives its process. Some
network file systems have no locks, or wait for a server that never answers; work then goes on without one, and says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import threading
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from dovetail.engine import events
from dovetail.engine.errors import OutputError
from dovetail.io.files.durable import sync_folder
from dovetail.io.files.outfile import naming
from dovetail.io.files.threads import start_thread

LOCK_NAME = "dovetail_lock"
"""File name of the lock in the staging folder."""

LOCK_SECONDS = 10.0
"""Seconds to wait for the answer of a file system; one that has locks answers at once, be it with no."""

_silent: set[int] = set()
"""Devices that did not answer in time, which are not asked again."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


class Hold(Enum):
    """Who has a lock."""

    OURS = "ours"
    """This process has it."""
    OTHERS = "others"
    """Another process has it."""
    NONE = "none"
    """Nobody can have it: the file system has no locks, or does not answer."""


@contextlib.contextmanager
def locked(staging: Path, listen: events.Listener = events.ignore, *, shared: bool = False) -> Iterator[bool]:
    """Make the staging folder, and hold its lock during the block; give whether the file system has locks.

    Parameters
    ----------
    staging
        The folder.
    listen
        Receives a warning where the file system has no locks.
    shared
        Whether other processes that share the lock may work in the folder at the same time.

    Raises
    ------
    OutputError
        Another process is writing this output.

    """
    staging.mkdir(parents=True, exist_ok=True)
    sync_folder(staging.parent)  # so that the journal is found again even after a power failure
    with hold_lock(staging / LOCK_NAME, shared=shared) as hold:
        if hold is Hold.OTHERS:
            raise OutputError(
                f"another process is writing into {staging}",
                "one process for one output",
                "wait for it to end, or choose another output folder",
            )
        if hold is Hold.NONE:
            listen(events.Notice("warning", no_locks(staging, "output")))
        yield hold is Hold.OURS


def no_locks(folder: Path, what: str) -> str:
    """Say that nothing keeps a second process from making the same thing in a folder."""
    return (
        f"The file system of {folder.parent} has no locks, so that nothing keeps a second process from making the same "
        f"{what} at the same time: start only one."
    )


@contextlib.contextmanager
def if_unlocked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder during the block, unless another process holds it; give whether none does."""
    with hold_lock(folder / LOCK_NAME) as hold:
        yield hold is not Hold.OTHERS


@contextlib.contextmanager
def hold_lock(path: Path, *, shared: bool = False) -> Iterator[Hold]:
    """Hold the lock of a file, which is made if it is not there, during the block; give who has it.

    Raises
    ------
    OSError
        The file cannot be opened.

    """
    with naming(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with naming(path):
            hold = _take(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield hold
    finally:
        with naming(path):
            os.close(descriptor)


def _take(descriptor: int, kind: int) -> Hold:
    """Take a lock without waiting for who has it, and not forever for the file system.

    The call is made on a thread, because a client of a server that is gone can hang in it, whatever is asked for.
    """
    device = os.fstat(descriptor).st_dev
    if device in _silent:
        return Hold.NONE
    answer: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            answer.put(error)
        else:
            answer.put(None)

    start_thread(threading.Thread(target=ask, name="dovetail-lock", daemon=True))
    try:
        error = answer.get(timeout=LOCK_SECONDS)
    except queue.Empty:
        _silent.add(device)
        return Hold.NONE
    if error is None:
        return Hold.OURS
    if isinstance(error, BlockingIOError):
        return Hold.OTHERS
    if error.errno in _NO_LOCKS:
        return Hold.NONE
    raise error
