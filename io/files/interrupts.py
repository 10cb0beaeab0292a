"""Requests to stop, Ctrl-C and SIGTERM, answered where stopping is safe.

Python runs a signal's handler between any two instructions of the main thread. An exception that a handler raises can
therefore leave a lock taken, a file half renamed, or be lost in a place that no exception can leave, where Python only
prints "Exception ignored". Within a block of `held`, a request is noted, and answered at the next `check_interrupts` or
at the end of the block. The handlers that were there answer it, whatever they are, and are there again after the block.
Who asks again a second later is answered at once.

Only the main thread receives signals; on other threads all of this does nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Final, Self

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask a process to stop; that of Ctrl-C is the first to be held back and the last to be let go."""

AGAIN_S: Final = 1.0
"""Seconds after which a second request is another one, and not the first once more: it is answered at once."""

Handler = Callable[[int, FrameType | None], Any]


class _Requests:
    """What the main thread was asked, and who answers."""

    def __init__(self) -> None:
        self.blocks = 0
        """Blocks of `held` that the main thread is in."""
        self.came: int | None = None
        """The signal that waits for an answer."""
        self.since: float | None = None
        """When the first one came, by the monotonic clock."""
        self.handlers: dict[int, Handler] = {}
        """What answers each signal."""

    def answer(self, frame: FrameType | None = None) -> None:
        """Answer the request that waits, if there is one."""
        if self.came is not None:
            number, self.came = self.came, None
            self.handlers[number](number, frame)


_requests = _Requests()


def _receive(number: int, frame: FrameType | None) -> None:
    """Note a request or answer it; stands in the place of the handlers."""
    now, first = time.monotonic(), _requests.since
    if first is not None and now - first < AGAIN_S:
        return
    if _requests.blocks == 0 and not _is_changing(frame):
        _requests.since = now
        _requests.handlers[number](number, frame)
    elif first is None:
        _requests.since, _requests.came = now, number
    else:
        _requests.came = None
        _requests.handlers[number](number, frame)


def _is_changing(frame: FrameType | None) -> bool:
    """Whether the main thread is entering or leaving a block of `held` right now."""
    while frame is not None and frame.f_globals.get("__name__") != __name__:
        frame = frame.f_back
    return frame is not None and frame.f_code in (held.__enter__.__code__, held.__exit__.__code__)


def is_main() -> bool:
    """Whether this is the thread that receives signals."""
    return threading.current_thread() is threading.main_thread()


class held:
    """Hold requests to stop back during the block; afterwards, what was there before answers them.

    Where `answer_requests` has made the program answer, a request that came is left to the next block or check, because
    the program knows whether anything is left to do. For short blocks in which nothing is begun, `at_once` has the
    requests that come in the block answered at its end all the same.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once, self._on, self._waited = at_once, False, False
        self._before: list[int] = []

    def __enter__(self) -> Self:
        if not is_main():
            return self
        if not self._at_once:
            check_interrupts()
        self._on, self._waited = True, _requests.came is not None
        for number in reversed(SIGNALS):
            handler = signal.getsignal(number)
            if callable(handler) and handler is not _receive:
                _requests.handlers[number] = handler
                self._before.append(number)
                signal.signal(number, _receive)
        _requests.blocks += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._on:
            return
        _requests.blocks -= 1
        if self._before:
            for number in reversed(self._before):
                signal.signal(number, _requests.handlers[number])
            _requests.since = None
            _requests.answer()
        elif self._at_once and not self._waited and _requests.blocks == 0:
            _requests.answer(sys._getframe())


def check_interrupts() -> None:
    """Answer a request to stop that was held back; what answers Ctrl-C raises `KeyboardInterrupt`, as a rule."""
    if _requests.came is not None and is_main():
        _requests.answer()


def answer_requests(handler: Handler) -> None:
    """Let a handler answer requests to stop from now on, for a program that owns its process.

    Signals that the process was started to ignore stay ignored.

    Parameters
    ----------
    handler
        Gets the number of the signal, and the frame that it interrupts: None where stopping is safe, and where an
        exception may therefore be raised.

    """
    _requests.blocks, _requests.came, _requests.since = 0, None, None
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            _requests.handlers[number] = handler
            signal.signal(number, _receive)


def ignore_requests() -> None:
    """Ignore requests to stop from now on, in a process that is about to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Let processes that start during the block not hear Ctrl-C, which a terminal sends to all: this one ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_anew() -> None:
    """Give a forked process its handlers back: nobody there leaves the block in which it was forked."""
    if _requests.blocks:
        for number, handler in _requests.handlers.items():
            if signal.getsignal(number) is _receive:
                signal.signal(number, handler)
        _requests.blocks, _requests.came, _requests.since = 0, None, None


os.register_at_fork(after_in_child=_begin_anew)
