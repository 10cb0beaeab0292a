"""What tests do to the workers of a Dask cluster, in the workers' own processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from dovetail.engine.actions import cluster_part
from dovetail.engine.run import commit, execution
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.clusters import probe

_report = execution.Execution._report_progress
_versions = probe.versions


def commit_small_groups() -> None:
    """Let chunks become durable in small groups."""
    commit.GROUP_BYTES = 1
    Budget.unwritten_bytes = 4000  # type: ignore[assignment,method-assign]


def go_slowly(seconds: float, told: str) -> None:
    """Let the worker wait after each task, and write its number into a folder when a chunk is durable."""

    def slowly(self: Any, *given: Any) -> None:
        _report(self, *given)
        if self._durable_tasks:
            Path(told, str(os.getpid())).touch()
            time.sleep(seconds)

    execution.Execution._report_progress = slowly  # type: ignore[method-assign]


def end_after_a_part() -> None:
    """Let the worker be killed when it has made a part, and before it can say so."""
    cluster_part.peak_resident_bytes = lambda: os.kill(os.getpid(), signal.SIGKILL)


def go_on() -> None:
    """Let the worker work as it did before, with its own versions."""
    execution.Execution._report_progress = _report  # type: ignore[method-assign]
    probe.versions = _versions


def pretend(name: str, version: str) -> None:
    """Let the worker have another version of a package."""
    probe.versions = lambda: {**_versions(), name: version}
