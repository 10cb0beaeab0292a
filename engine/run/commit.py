"""Making the output durable while the merge goes on.

One thread takes the records of finished tasks in groups, waits until the bytes of a group are on the disk, and only
then passes its records on. Grouping keeps the cost of flushing small. A limit on the output that is not on the disk
yet keeps dirty pages from filling the memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from dovetail.engine.run.task import TaskRecord
from dovetail.io.files.threads import start_thread

GROUP_BYTES = 64 * 2**20
"""A group is committed as soon as it holds this much output."""

GROUP_SECONDS = 1.0
"""A group is committed after this many seconds, however little output it holds."""


class Committer:
    """Commits finished tasks in the background, in groups.

    Parameters
    ----------
    flush
        Makes the output of a group of tasks durable; called on the committer's thread.
    committed
        Receives every group once its output is durable; called on the committer's thread.
    unwritten_bytes
        Most output that may be written and not yet durable; beyond that `put` waits.

    """

    def __init__(
        self,
        flush: Callable[[Sequence[TaskRecord]], None],
        committed: Callable[[Sequence[TaskRecord]], None],
        unwritten_bytes: int,
    ) -> None:
        self._flush, self._committed, self._limit = flush, committed, unwritten_bytes
        self._group: list[TaskRecord] = []
        self._group_bytes = self._unwritten = 0
        self._error: BaseException | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="dovetail-commit", daemon=True)
        start_thread(self._thread)

    def put(self, record: TaskRecord) -> None:
        """Take the record of a finished task; wait while too much output is not durable yet.

        Raises
        ------
        OSError
            An earlier flush failed.

        """
        with self._changed:
            self._group.append(record)
            self._group_bytes += record.written_bytes
            self._unwritten += record.written_bytes
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._unwritten <= self._limit or self._error is not None)
            self._raise()

    def close(self) -> None:
        """Commit the records that are left, and end the thread.

        Raises
        ------
        OSError
            A flush failed.

        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while group := self._next_group():
                self._flush(group)
                self._committed(group)
                with self._changed:
                    self._unwritten -= sum(record.written_bytes for record in group)
                    self._changed.notify_all()
        except BaseException as error:  # put and close raise it again on the thread of the merge
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next_group(self) -> list[TaskRecord]:
        """Wait until there is enough output for a group, or time is up; an empty group means that all is committed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or bool(self._group))
            full = min(GROUP_BYTES, self._limit // 2)
            self._changed.wait_for(lambda: self._closing or self._group_bytes >= full, timeout=GROUP_SECONDS)
            group, self._group, self._group_bytes = self._group, [], 0
            return group
