"""Showing the progress of a merge: as a live bar, plain lines, JSON lines, or warnings only."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dovetail.engine import events
from dovetail.engine.text import counted, format_size

PLAIN_SECONDS = 10.0
"""Seconds between two progress lines where there is no terminal."""

_ROOM_COLUMNS = (40, 60, 80)
"""Columns that a terminal must have for bytes done, speed and memory to stand beside the bar."""


class Display(Protocol):
    """A context manager that is called with each event, and shows it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        ...


class _Simple:
    """A display that needs no cleaning up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing, because nothing is open."""


class QuietDisplay(_Simple):
    """Shows warnings and failures only."""

    def __call__(self, event: events.Event) -> None:
        """Print a warning or a failure to stderr."""
        if isinstance(event, events.Failed) or (isinstance(event, events.Notice) and event.level == "warning"):
            print(_notice(event), file=sys.stderr)


class NoticeDisplay(_Simple):
    """Shows notices and failures, but no progress."""

    def __call__(self, event: events.Event) -> None:
        """Print a notice or a failure to stderr."""
        if isinstance(event, events.Notice | events.Failed):
            print(_notice(event), file=sys.stderr, flush=True)


class JsonDisplay(_Simple):
    """Prints each event as a JSON object on one line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def __call__(self, event: events.Event) -> None:
        """Print the event on one line, and flush the stream."""
        print(json.dumps(event.to_json()), file=self._stream, flush=True)


class PlainDisplay(_Simple):
    """Prints plain lines, for logs and pipes."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: events.Event) -> None:
        """Print a line for the start, for each notice or failure, and every `PLAIN_SECONDS` for the progress."""
        if isinstance(event, events.Notice | events.Failed):
            print(_notice(event), file=sys.stderr, flush=True)
        elif isinstance(event, events.Started):
            print(_started(event), flush=True)
        elif isinstance(event, events.Progress) and time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            share = event.done_bytes / max(1, event.total_bytes)
            print(f"{share:6.1%}  {_rate(event)}", flush=True)
        elif isinstance(event, events.Trained) and time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            share = event.done_images / max(1, event.total_images)
            print(f"{share:6.1%}  {_learnt(event)}", flush=True)


class LiveDisplay:
    """Shows a live bar with bytes done, GB/s, time left and resident memory."""

    def __init__(self, console: Console, label: str) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn(label),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar from the terminal."""
        self._progress.stop()

    def __call__(self, event: events.Event) -> None:
        """Move the bar to show progress; print any other event above it."""
        if isinstance(event, events.Notice | events.Failed):
            style = "dim" if isinstance(event, events.Notice) and event.level == "info" else "yellow"
            self._console.print(_notice(event), style=style, highlight=False, markup=False)
        elif isinstance(event, events.Started):
            self._console.print(_started(event), highlight=False, markup=False)
        elif isinstance(event, events.Progress):
            if self._task is None:
                self._task = self._progress.add_task("", total=event.total_bytes, rate="")
            room = sum(self._console.width >= columns for columns in _ROOM_COLUMNS)
            rate = _rate(event, room)
            self._progress.update(self._task, total=event.total_bytes, completed=event.done_bytes, rate=rate)
        elif isinstance(event, events.Trained):
            if self._task is None:
                self._task = self._progress.add_task("", total=event.total_images, rate="")
            room = sum(self._console.width >= columns for columns in _ROOM_COLUMNS)
            self._progress.update(self._task, completed=event.done_images, rate=_learnt(event, room))


class Recorder:
    """Passes events on to a display, and keeps those of finished outputs for a summary.

    Parameters
    ----------
    display
        Shows every event; the caller enters and leaves it.

    """

    def __init__(self, display: Display) -> None:
        self.display = display
        self.done: list[events.Done] = []

    @property
    def made(self) -> list[events.Done]:
        """The outputs that were made now, and not by an earlier run."""
        return [done for done in self.done if not done.already]

    def __call__(self, event: events.Event) -> None:
        """Show one event, and keep it if it reports a finished output."""
        self.display(event)
        if isinstance(event, events.Done):
            self.done.append(event)


def choose_display(*, quiet: bool, as_json: bool, label: str = "merging") -> Display:
    """Choose the display for the user's options and for where the command's output goes.

    Parameters
    ----------
    quiet
        Whether only warnings and failures are shown.
    as_json
        Whether every event is printed as JSON.
    label
        Text before the live bar.

    """
    if as_json:
        return JsonDisplay()
    if quiet:
        return QuietDisplay()
    console = Console()
    movable = console.is_terminal and not console.is_dumb_terminal
    return LiveDisplay(console, label) if movable else PlainDisplay()


def _notice(event: events.Notice | events.Failed) -> str:
    if isinstance(event, events.Failed):
        return f"failed: {event.source}: {event.text}"
    return f"warning: {event.text}" if event.level == "warning" else event.text


def _started(event: events.Started) -> str:
    return (
        f"{event.method}: {counted(event.tensors, 'tensor')}, reading {format_size(event.read_bytes)}, "
        f"writing {format_size(event.write_bytes)}, {counted(event.workers, 'worker')}, "
        f"at most {format_size(event.projected_bytes)} of {format_size(event.allowed_bytes)} allowed"
    )


def _learnt(event: events.Trained, most: int = 3) -> str:
    """Give epochs, loss and accuracy, or only the first of these if there is no room for more."""
    right = "" if event.validation is None else f"{event.validation:.1%} right in validation"
    parts = [f"epoch {min(event.epoch + 1, event.epochs)} of {event.epochs}", f"loss {event.loss:.3f}", right]
    return "  ".join(parts[:most]).rstrip()


def _rate(event: events.Progress, most: int = 3) -> str:
    """Give bytes, speed and memory, or only the first of these if there is no room for more."""
    speed = event.done_bytes / max(event.seconds, 1e-9) / 1e9
    done, total = format_size(event.done_bytes), format_size(event.total_bytes)
    parts = [f"{done} of {total}", f"{speed:.2f} GB/s", f"{format_size(event.resident_bytes)} resident"]
    return "  ".join(parts[:most])
