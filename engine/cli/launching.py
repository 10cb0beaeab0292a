"""Commands that MPI has started as several processes: each makes its share, and the first one shows how far all are."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dovetail.engine import events
from dovetail.engine.cli.report.display import Display, choose_display

if TYPE_CHECKING:
    from dovetail.engine.run.parts.part import Part
    from dovetail.engine.run.parts.watch import Watch
    from dovetail.engine.run.prepare import RunOptions


@dataclass(frozen=True, slots=True)
class Launch:
    """How this process takes part in what MPI has started."""

    rank: Part | None = None
    """Its share, if every process makes one; None if it is alone, or if the user has said what it makes."""
    by_pool: bool = False
    """Whether ``python -m mpi4py.futures`` has started it, so that the other processes wait for work."""

    def run_options(self, run: RunOptions) -> RunOptions:
        """Complete what the user has said by the share of this process, of the output and of its machine."""
        if self.by_pool:
            return replace(run, executor="mpi")
        if self.rank is None:
            return run
        from dovetail.engine.run.clusters.crew import fair_memory
        from dovetail.engine.run.parts.launch import processes_here, threads_here
        from dovetail.io.files.machine import available_bytes

        memory, here = run.memory_bytes, processes_here()
        if memory is None and here > 1:
            memory = fair_memory(available_bytes(), here, None)
        return replace(run, part=self.rank, memory_bytes=memory, workers=run.workers or threads_here())

    def display(self, *, quiet: bool, as_json: bool, label: str = "merging") -> Display:
        """Choose the display: the first process shows everything, the others warnings and the end."""
        if self.rank is None or self.rank.number == 1:
            return choose_display(quiet=quiet, as_json=as_json, label=label)
        return choose_display(quiet=not as_json, as_json=as_json)

    def listener(self, display: Any, output: Path) -> events.Listener:
        """Give what receives events in place of a display."""
        if self.rank is None:
            listener: events.Listener = display
            return listener
        if self.rank.number > 1:
            return _Few(display)
        text = f"MPI has started {self.rank.count:,} processes, each of which makes a part of the output."
        display(events.Notice("info", text))
        return _Overall(display, output)


_OF_WORKERS: Final = ("dovetail.engine.actions.cluster_part",)
"""Modules with all that a worker needs to make parts."""


def find_launch(part: str | None, executor: str | None) -> Launch:
    """Find out how this process was started, unless the user says what it makes."""
    if part is not None or executor is not None:
        return Launch()
    pool: Any = sys.modules.get("mpi4py.futures._core")
    if pool is not None and pool.SharedPool is not None:
        from dovetail.engine.run.clusters.mpi_pool import wake_pool

        wake_pool(_OF_WORKERS)
        _draw_nothing()
        return Launch(by_pool=True)
    from dovetail.engine.run.parts.launch import rank_of_launch

    if (rank := rank_of_launch()) is not None:
        _draw_nothing()
    return Launch(rank)


def _draw_nothing() -> None:
    """Write lines alone: the standard output of a rank of Open MPI is a terminal, whoever reads that of mpiexec."""
    if not {"FORCE_COLOR", "TTY_COMPATIBLE"} & os.environ.keys():
        os.environ["TTY_COMPATIBLE"] = "0"


class _Few:
    """Passes on what must not be missed among the words of many processes."""

    def __init__(self, listen: events.Listener) -> None:
        self._listen = listen

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Done | events.PartDone | events.Failed) or (
            isinstance(event, events.Notice) and event.level == "warning"
        ):
            self._listen(event)


class _Overall:
    """Passes on how far all processes are, in place of how far this one is."""

    def __init__(self, listen: events.Listener, output: Path) -> None:
        self._listen, self._output = listen, output
        self._watch: Watch | None = None

    def __call__(self, event: events.Event) -> None:
        if not isinstance(event, events.Progress):
            self._listen(event)
            return
        if self._watch is None:
            from dovetail.engine.output.staging import staging_path
            from dovetail.engine.run.parts.folder import read_layout
            from dovetail.engine.run.parts.watch import Watch

            staging = staging_path(self._output)
            self._watch = Watch(staging, read_layout(staging))
        self._watch.tell(self._listen)
