"""A live bar on a terminal, drawn by rich."""

from __future__ import annotations

import math
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dovetail.engine import events
from dovetail.engine.cli.report.lines import learnt_line, notice_line, rate_line, started_line

_DRAWN_S = 0.1
"""Seconds between two times that the bar moves."""

_ROOM_COLUMNS = (40, 60, 80)
"""Columns that a terminal must have for bytes done, speed and memory to stand beside the bar."""


class Bar:
    """A bar that is shown from now on, with lines of text above it.

    Parameters
    ----------
    label
        Text before the bar.
    console
        Where it is drawn; None for standard output.

    """

    def __init__(self, label: str, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress = Progress(
            TextColumn(label),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._moved = -math.inf
        self._progress.start()

    def stop(self) -> None:
        """Remove the bar from the terminal."""
        self._progress.stop()

    def show(self, event: events.Notice | events.Failed | events.Started | events.Progress | events.Trained) -> None:
        """Move the bar to show progress; print any other event above it."""
        if isinstance(event, events.Notice | events.Failed):
            style = "dim" if isinstance(event, events.Notice) and event.level == "info" else "yellow"
            self._console.print(notice_line(event), style=style, highlight=False, markup=False)
        elif isinstance(event, events.Started):
            self._console.print(started_line(event), highlight=False, markup=False)
        elif time.monotonic() - self._moved < _DRAWN_S:  # tasks can end faster than anyone looks
            return
        elif isinstance(event, events.Progress):
            self._move(event.done_bytes, event.total_bytes, rate_line(event, self._room()))
        else:
            self._move(event.done_images, event.total_images, learnt_line(event, self._room()))

    def _room(self) -> int:
        """Count the parts of a line that have room beside the bar."""
        return sum(self._console.width >= columns for columns in _ROOM_COLUMNS)

    def _move(self, done: int, total: int, rate: str) -> None:
        self._moved = time.monotonic()
        if self._task is None:
            self._task = self._progress.add_task("", total=total, rate="")
        self._progress.update(self._task, total=total, completed=done, rate=rate)
