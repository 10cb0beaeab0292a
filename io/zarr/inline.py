"""Running zarr-python's coroutines to their end on the thread that calls.

They hand their work to threads. Here each thread has its own event loop, which runs everything where it is: nothing
waits for another thread, so that there can be no deadlock, and what one chunk takes of memory is known.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from dovetail.io.files.threads import Threads

T = TypeVar("T")
P = ParamSpec("P")


class _Inline(ThreadPoolExecutor):
    """Runs what it is given at once, on the thread that gives it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class _Loop:
    """An event loop that closes with its thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_Inline(1))
        # A __del__ could come after that of the loop's sockets, where all are found together in a cycle of an error.
        weakref.finalize(self, _close, self.loop)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_running():
        loop.close()


_thread = threading.local()


def run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        own: _Loop | None = getattr(_thread, "loop", None)
        if own is None:
            own = _thread.loop = _Loop()
        return own.loop.run_until_complete(coroutine)
    # A loop runs on this thread already, and a second one cannot: another thread takes it.
    with Threads(1) as pool:
        future: Future[T] = pool.submit(lambda: run_here(coroutine))
        return future.result()
