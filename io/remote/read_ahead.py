"""Bytes of remote files in memory: fetched ahead of need by a few threads, within a fixed number of bytes.

A range is *queued* by `start`, *taken* by the task that needs it, and *dropped* when that is done. Ranges that are
queued or fetched but not yet taken count against the limit; what does not fit is not fetched ahead but when it is
taken. Bytes that are taken are their task's own, for which the plan foresees memory. Ranges that are neighbours in
their file are fetched by one request: small tensors come hundreds at a time.
"""

from __future__ import annotations

import contextlib
import contextvars
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.remote.file import RemoteFile
from dovetail.io.remote.transports import transport_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

THREADS: Final = 4
"""Requests that are made at once ahead of need."""

LARGEST_GAP_BYTES: Final = 2**16
"""Bytes between two ranges that one request reads and throws away."""

LARGEST_REQUEST_BYTES: Final = 2**23
"""Neighbouring ranges are gathered into one request up to this size."""

_MAPPED_BYTES: Final = 2**17
_CLOSING_S: Final = 2.0

_Key = tuple[RemoteFile, int, int]


@dataclass(slots=True, eq=False)
class _WantedRange:
    """One range of a file, wanted or in memory."""

    file: RemoteFile
    begin: int
    end: int
    taken: bool
    """Whether a task waits for it or uses it; else it counts against the limit."""
    data: NDArray[np.uint8] | None = None
    error: BaseException | None = None
    started: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> _Key:
        return self.file, self.begin, self.end

    @property
    def size(self) -> int:
        return self.end - self.begin


class _ClosedError(Exception):  # a signal, not an error: nobody takes a range of a pool that is closed
    """The pool was closed."""


class Pool:
    """The ranges of one run in one process.

    Parameters
    ----------
    limit_bytes
        Most bytes that are fetched ahead of need; 0 to fetch nothing ahead.

    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.ahead_bytes = 0
        """Bytes that now count against the limit."""
        self.peak_bytes = 0
        """Most bytes that ever did."""
        self._ranges: dict[_Key, _WantedRange] = {}
        self._queue: deque[_WantedRange] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def start(self, file: RemoteFile, begin: int, end: int) -> None:
        """Begin to fetch a range, unless it is there or does not fit."""
        with self._changed:
            size = end - begin
            if self._closed or size == 0 or self.ahead_bytes + size > self.limit_bytes:
                return
            if (file, begin, end) in self._ranges:
                return
            wanted = _WantedRange(file, begin, end, taken=False)
            self._ranges[wanted.key] = wanted
            self._queue.append(wanted)
            self.ahead_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.ahead_bytes)
            if len(self._threads) < THREADS:
                # In a copy of this thread's context, which says for which run it works.
                work = contextvars.copy_context().run
                thread = threading.Thread(target=work, args=(self._work,), name="dovetail-read-ahead", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()

    def take(self, file: RemoteFile, begin: int, end: int) -> NDArray[np.uint8]:
        """Wait for a range, fetching it if nobody has begun to, and keep it until it is dropped.

        Raises
        ------
        CheckpointError
            It cannot be read; the next `take` tries again.

        """
        with self._changed:
            found = self._ranges.get((file, begin, end))
            if found is None:
                found = self._ranges[file, begin, end] = _WantedRange(file, begin, end, taken=True)
            elif not found.taken:
                found.taken = True
                self.ahead_bytes -= found.size
            batch = [] if found.started else self._claim(found)
        if batch:
            self._fetch(batch)
        found.done.wait()
        if found.error is not None:
            self.drop(file, begin, end)
            raise found.error
        assert found.data is not None
        return found.data

    def held(self, file: RemoteFile, begin: int, end: int) -> NDArray[np.uint8] | None:
        """Give a range that was taken and not dropped."""
        with self._changed:
            found = self._ranges.get((file, begin, end))
            return found.data if found is not None and found.taken else None

    def drop(self, file: RemoteFile, begin: int, end: int) -> None:
        """Let go of a range."""
        with self._changed:
            found = self._ranges.pop((file, begin, end), None)
            if found is not None and not found.taken:
                self.ahead_bytes -= found.size
                if not found.started:
                    self._queue.remove(found)

    def close(self) -> None:
        """Stop fetching ahead and let go of everything.

        Requests under way stop at the next bytes that come. A thread that sits out a pause before another attempt is
        not waited for: it ends with the process at the latest.
        """
        with self._changed:
            self._closed = True
            for waiting in self._queue:
                waiting.started = True
                waiting.error = _ClosedError()
                waiting.done.set()
            self._queue.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + _CLOSING_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            self._ranges.clear()
            self.ahead_bytes = 0

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._queue))
                if self._closed:
                    return
                batch = self._claim(self._queue[0])
            self._fetch(batch, ahead=True)

    def _claim(self, first: _WantedRange) -> list[_WantedRange]:
        """Take a range, and the neighbours that wait to be fetched, out of the queue, for one request."""
        batch, end = [first], first.end
        first.started = True
        with contextlib.suppress(ValueError):
            self._queue.remove(first)
        for other in sorted((item for item in self._queue if item.file == first.file), key=lambda item: item.begin):
            if end <= other.begin <= end + LARGEST_GAP_BYTES and other.end - first.begin <= LARGEST_REQUEST_BYTES:
                other.started = True
                self._queue.remove(other)
                batch.append(other)
                end = other.end
        return batch

    def _fetch(self, batch: list[_WantedRange], *, ahead: bool = False) -> None:
        """Read ranges, in order of place and apart, by one request."""
        try:
            file, first = batch[0].file, 0
            buffers = [_buffer(item.size) for item in batch]

            def write(begin: int, data: bytes) -> None:
                nonlocal first
                if ahead and self._closed:
                    raise _ClosedError
                end = begin + len(data)
                for index in range(first, len(batch)):
                    item = batch[index]
                    low, high = max(begin, item.begin), min(end, item.end)
                    if low < high:
                        part = np.frombuffer(data, np.uint8, high - low, low - begin)
                        buffers[index][low - item.begin : high - item.begin] = part
                    if item.end > end:
                        break
                    first = index + 1

            transport_of(file.address).fetch(file, batch[0].begin, batch[-1].end, write)
            for item, buffer in zip(batch, buffers, strict=True):
                buffer.flags.writeable = False
                item.data = buffer
        except BaseException as error:  # handed to whoever takes a range
            for item in batch:
                item.error = error
        finally:
            for item in batch:
                item.done.set()


def _buffer(size_bytes: int) -> NDArray[np.uint8]:
    """Give memory that goes back to the system as soon as it is let go, which that of an allocator may not."""
    if size_bytes < _MAPPED_BYTES:
        return np.empty(size_bytes, np.uint8)
    return np.frombuffer(mmap.mmap(-1, size_bytes), np.uint8)


_outside = Pool(0)
"""The pool of whatever belongs to no run: it fetches nothing ahead."""

_pool: contextvars.ContextVar[Pool | None] = contextvars.ContextVar("pool", default=None)


def pool() -> Pool:
    """Give the pool of the run that this thread works for; outside of `reading_through` nothing is fetched ahead."""
    return _pool.get() or _outside


@contextlib.contextmanager
def reading_through(used: Pool) -> Iterator[None]:
    """Let remote tensors that this thread reads go through a pool, until the end of the block."""
    token = _pool.set(used)
    try:
        yield
    finally:
        _pool.reset(token)


def _reset() -> None:
    """Begin anew in a process that was forked: the parent's threads, which may hold the pool's lock, are not here."""
    global _outside
    _outside = Pool(0)
    _pool.set(None)


os.register_at_fork(after_in_child=_reset)
