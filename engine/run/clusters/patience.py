"""Waiting for the workers of a cluster when there are none: they may have to be started first, or come again."""

from __future__ import annotations

import time

from dovetail.engine import events
from dovetail.engine.errors import WorkerLostError
from dovetail.engine.run.clusters.cluster import Cluster
from dovetail.io.files.interrupts import check_interrupts
from dovetail.io.files.threads import POLL_S

WAIT_S: float = 600.0
"""Seconds to wait for new workers when all are gone, and for a lost worker that still makes its part."""


class Patience:
    """Waits for workers when there are none, but not for ever."""

    def __init__(self, cluster: Cluster, listen: events.Listener) -> None:
        self._cluster, self._listen = cluster, listen
        self._last_seen, self._told = time.monotonic(), False

    def workers(self) -> list[str]:
        """Name the workers that are there.

        Raises
        ------
        WorkerLostError
            There have been none for too long.

        """
        found = self._cluster.workers()
        if found:
            self._last_seen, self._told = time.monotonic(), False
            return found
        if time.monotonic() - self._last_seen > WAIT_S:
            raise WorkerLostError(
                f"{self._cluster.name} has no worker, and none has come in {WAIT_S:,.0f} s",
                "at least one",
                "start workers, and run the same command again to continue",
            )
        if not self._told:
            self._told = True
            text = f"{self._cluster.name} has no workers; waiting up to {WAIT_S:,.0f} s for some."
            self._listen(events.Notice("warning", text))
            self._cluster.want(1)
        return found

    def count(self) -> int:
        """Give the number of workers, when there is one."""
        while not (found := self.workers()):
            check_interrupts()
            time.sleep(POLL_S)
        return len(found)
