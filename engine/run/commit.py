"""Making output durable while the merge goes on.

One thread takes the records of finished tasks in groups, waits until their bytes are on the disk, and only then
hands them on. Grouping makes the cost of a flush small; bounding what is unwritten keeps dirty pages from piling up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from dovetail.engine.run.task import TaskRecord

GROUP_BYTES = 64 * 2**20
"""A group is committed as soon as it holds this much output."""

GROUP_SECONDS = 1.0
"""A group is committed after this long, however small."""


class Committer:
    """Commits finished tasks in the background, in groups.

    Parameters
    ----------
    flush
        Makes the output of a group of tasks durable; called on the committer's thread.
    committed
        Told of every group once it is durable; called on the committer's thread.
    unwritten_bytes
        Most output that may be written but not yet durable before `put` waits.

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
        self._thread.start()

    def put(self, record: TaskRecord) -> None:
        """Hand over a finished task; wait while too much is unwritten.

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
        """Commit what is left and stop.

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
        except BaseException as error:  # handed to the merge's own thread by put and close
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next_group(self) -> list[TaskRecord]:
        """Wait for a group that is worth committing; an empty one means the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or bool(self._group))
            full = min(GROUP_BYTES, self._limit // 2)
            self._changed.wait_for(lambda: self._closing or self._group_bytes >= full, timeout=GROUP_SECONDS)
            group, self._group, self._group_bytes = self._group, [], 0
            return group
