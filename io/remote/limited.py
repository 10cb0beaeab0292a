"""Waiting only so long for libraries that wait for a server as long as it likes.

huggingface_hub and the stores of fsspec begin a new timeout with every byte, or have none, so that a server that sends
one now and then could hold them for days. Another thread does their work here, and whoever waits for it leaves it alone
when it has had its time. Such a thread keeps no program from ending.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Final, TypeVar

from dovetail.io.remote.http_connection import LEAST_BYTES_PER_S, READ_TIMEOUT_S

LONGEST_ANSWER_S = 3_600.0
"""Most seconds that the answer to one question may take, however long it is."""

STALL_S = 600.0
"""Seconds in which a download must bring `LEAST_BYTES_PER_S` a second, or come to its end."""

LOOK_AGAIN_S: Final = 1.0
"""Seconds after which is looked again how far a download has come."""

T = TypeVar("T")


def answer(question: Callable[[], T], most_bytes: int) -> T:
    """Ask a question in another thread, and wait for the answer as long as one of so many bytes may take.

    Raises
    ------
    TimeoutError
        The answer takes longer; what is raised by the question itself is raised as it is.

    """
    end = time.monotonic() + min(LONGEST_ANSWER_S, READ_TIMEOUT_S + most_bytes / LEAST_BYTES_PER_S)
    return _wait(_begin(question), lambda: end - time.monotonic())


def download(work: Callable[[], T], folder: Path, most_bytes: int) -> T:
    """Download into a folder in another thread, and wait for as long as bytes come.

    Parameters
    ----------
    work
        Downloads.
    folder
        Where the files grow.
    most_bytes
        Most bytes by which the folder may grow.

    Raises
    ------
    TimeoutError
        In `STALL_S` came less than `LEAST_BYTES_PER_S` a second.
    OverflowError
        More came than was announced.

    """
    first = mark = _size_bytes(folder)
    end = time.monotonic() + STALL_S

    def left_s() -> float:
        nonlocal mark, end
        size = _size_bytes(folder)
        if size - first > most_bytes:
            raise OverflowError(f"more than {most_bytes} bytes came")
        if size - mark >= STALL_S * LEAST_BYTES_PER_S:
            mark, end = size, time.monotonic() + STALL_S
        return end - time.monotonic()

    return _wait(_begin(work), left_s)


def _begin(work: Callable[[], T]) -> Future[T]:
    """Do some work in a thread of its own, with the context of this one."""
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="dovetail-answer", daemon=True).start()
    return future


def _wait(future: Future[T], left_s: Callable[[], float]) -> T:
    while not future.done():
        if (left := left_s()) <= 0:
            raise TimeoutError("no answer in time")
        wait([future], min(left, LOOK_AGAIN_S))
    return future.result()


def _size_bytes(folder: Path) -> int:
    """Add up the sizes of the files below a folder, some of which may go while they are looked at."""
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue
        total += status.st_size
    return total
