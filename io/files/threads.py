"""Starting threads, which the system may refuse, and waiting for what they do, while requests to stop are answered.

A wait that an exception cuts short, as that of a signal's handler does, can leave locks taken that other threads need.
So whoever waits for threads on the main thread looks now and then whether it is to stop.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import Any, Final, ParamSpec, TypeVar

from dovetail.io.errors import thread_limit
from dovetail.io.files.interrupts import check_interrupts

POLL_S: Final = 0.1
"""Seconds after which whoever waits on the main thread looks whether it is to stop."""

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    Raises
    ------
    ThreadLimitError
        The system starts no more.

    """
    try:
        thread.start()
    except RuntimeError as error:
        raise _refused(error) from error


class Threads(ThreadPoolExecutor):
    """A pool of threads; it starts one when it is given work and none is idle."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let a thread run a function.

        Raises
        ------
        ThreadLimitError
            The system starts no more threads.

        """
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            raise _refused(error) from error


def _refused(error: RuntimeError) -> Exception:
    """Give the error to raise: any other than that of the system is a defect, and stays what it is."""
    return thread_limit(error) or error


def result_of(future: Future[T]) -> T:
    """Wait for a result on any thread; on the main thread, answer requests to stop meanwhile."""
    while True:
        check_interrupts()
        try:
            return future.result(timeout=POLL_S)
        except TimeoutError:
            if future.done():
                return future.result()


def wait_for_one(futures: Iterable[Future[Any]]) -> set[Future[Any]]:
    """Wait until some of the futures are done, and give these; on the main thread, answer requests meanwhile."""
    waiting = list(futures)
    while True:
        check_interrupts()
        if done := wait(waiting, timeout=POLL_S, return_when=FIRST_COMPLETED).done:
            return done


def in_order(pool: Executor, work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Run a function for every item, all at once so far as the pool has room, and give the results in order."""
    futures = deque(pool.submit(work, item) for item in items)
    try:
        while futures:
            yield result_of(futures.popleft())
    finally:
        for future in futures:
            future.cancel()
