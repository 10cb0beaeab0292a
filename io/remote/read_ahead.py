"""Fetching ranges of remote files into memory before tasks need them, by a few threads and within a limit.

`start` *queues* a range, the task that needs it *takes* it, and the range is *dropped* when the task has used it.
Ranges that are queued or fetched, but not taken yet, count against the limit in bytes. A range for which there is no
room is fetched only when it is taken. Ranges that are taken count as memory of their tasks, which the plan foresees.
Neighbouring ranges of a file are fetched by one request, so that hundreds of small tensors can come at once.
"""

from __future__ import annotations

import contextlib
import contextvars
import mmap
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.errors import ThreadLimitError
from dovetail.io.files.per_run import PerRun
from dovetail.io.files.threads import start_thread
from dovetail.io.remote.file import RemoteFile
from dovetail.io.remote.transports import transport_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

THREADS: Final = 4
"""Number of threads, and so of requests at once, that fetch ranges ahead of need."""

LARGEST_GAP_BYTES: Final = 2**16
"""Two ranges with at most this many bytes between them are fetched by one request, which discards these bytes."""

LARGEST_REQUEST_BYTES: Final = 2**23
"""Most bytes of one request for several ranges."""

_MAPPED_BYTES: Final = 2**17
_CLOSING_S: Final = 2.0

_Key = tuple[RemoteFile, int, int]


@dataclass(slots=True, eq=False)
class _WantedRange:
    """A range of a file that is queued, being fetched, or in memory."""

    file: RemoteFile
    begin: int
    """Position in the file of the first byte."""
    end: int
    """One past the position of the last byte."""
    taken: bool
    """Whether a task waits for the range or uses it; if not, its bytes count against the limit."""
    data: NDArray[np.uint8] | None = None
    """The bytes of the range, once they are fetched."""
    error: BaseException | None = None
    """The error that fetching raised."""
    started: bool = False
    """Whether a thread is fetching or has fetched the range."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set once `data` or `error` is there."""

    @property
    def key(self) -> _Key:
        """The file and the range."""
        return self.file, self.begin, self.end

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.begin


class _ClosedError(Exception):  # a signal, not an error: nobody takes a range of a pool that is closed
    """The pool was closed before the range was fetched."""


class Pool:
    """The remote ranges that one run holds, or fetches, in one process.

    Parameters
    ----------
    limit_bytes
        Most bytes that are fetched ahead of need; 0 to fetch nothing ahead.

    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.ahead_bytes = 0
        """Bytes that count against the limit now."""
        self.peak_bytes = 0
        """Most bytes that have counted against the limit at any time."""
        self._ranges: dict[_Key, _WantedRange] = {}
        self._queue: deque[_WantedRange] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def start(self, file: RemoteFile, begin: int, end: int) -> None:
        """Queue a range, unless the pool has it already or its bytes would exceed the limit."""
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
                # The thread gets a copy of this thread's context, in which the patience of the run is set.
                work = contextvars.copy_context().run
                thread = threading.Thread(target=work, args=(self._work,), name="dovetail-read-ahead", daemon=True)
                with contextlib.suppress(ThreadLimitError):  # without one, tasks fetch for themselves
                    start_thread(thread)
                    self._threads.append(thread)
            self._changed.notify()

    def take(self, file: RemoteFile, begin: int, end: int) -> NDArray[np.uint8]:
        """Wait for a range, or fetch it if no thread has begun to, and keep it until it is dropped.

        Raises
        ------
        CheckpointError
            The range cannot be read; another `take` tries again.

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
        """Give the bytes of a range that was taken and not dropped yet; None for any other range."""
        with self._changed:
            found = self._ranges.get((file, begin, end))
            return found.data if found is not None and found.taken else None

    def drop(self, file: RemoteFile, begin: int, end: int) -> None:
        """Remove a range from the pool, if it is there, and from the queue."""
        with self._changed:
            found = self._ranges.pop((file, begin, end), None)
            if found is not None and not found.taken:
                self.ahead_bytes -= found.size
                if not found.started:
                    self._queue.remove(found)

    def close(self) -> None:
        """Stop fetching ahead, and drop all ranges.

        Requests that are being made stop when their next bytes come. A thread that pauses before another attempt is not
        waited for; it ends with the process at the latest.
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
        """Remove a range and its queued neighbours from the queue, to be fetched by one request."""
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
        """Fetch ranges, which must be sorted and must not overlap, by one request."""
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
        except BaseException as error:  # `take` raises it again on the thread of the task
            for item in batch:
                item.error = error
        finally:
            for item in batch:
                item.done.set()


def _buffer(size_bytes: int) -> NDArray[np.uint8]:
    """Make a buffer; a large one is a memory map, which the system gets back at once, unlike an allocator's memory."""
    if size_bytes < _MAPPED_BYTES:
        return np.empty(size_bytes, np.uint8)
    return np.frombuffer(mmap.mmap(-1, size_bytes), np.uint8)


_pools = PerRun("read ahead", lambda: Pool(0))

pool = _pools.current
"""Gives the pool that `reading_through` has set for this thread, or else one that fetches nothing ahead."""

reading_through = _pools.using
"""Lets this thread read remote tensors through a pool, until the end of the block."""
