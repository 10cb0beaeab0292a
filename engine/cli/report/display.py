"""Showing the progress of a merge: as a live bar, plain lines, JSON lines, or warnings only."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, TextIO

from dovetail.engine import events
from dovetail.engine.cli.report.lines import learnt_line, notice_line, rate_line, started_line

if TYPE_CHECKING:
    from dovetail.engine.cli.report.bar import Bar

PLAIN_SECONDS = 10.0
"""Seconds between two progress lines where there is no terminal."""

SHOWN: Final = events.Notice | events.Failed | events.Started | events.Progress | events.Trained
"""The events that a bar shows."""


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
            print(notice_line(event), file=sys.stderr)


class NoticeDisplay(_Simple):
    """Shows notices and failures, but no progress."""

    def __call__(self, event: events.Event) -> None:
        """Print a notice or a failure to stderr."""
        if isinstance(event, events.Notice | events.Failed):
            print(notice_line(event), file=sys.stderr, flush=True)


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
            print(notice_line(event), file=sys.stderr, flush=True)
        elif isinstance(event, events.Started):
            print(started_line(event), flush=True)
        elif isinstance(event, events.Progress) and time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            share = event.done_bytes / max(1, event.total_bytes)
            print(f"{share:6.1%}  {rate_line(event)}", flush=True)
        elif isinstance(event, events.Trained) and time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            share = event.done_images / max(1, event.total_images)
            print(f"{share:6.1%}  {learnt_line(event)}", flush=True)


class LiveDisplay:
    """Shows a live bar with bytes done, GB/s, time left and resident memory.

    The bar, and what draws it, are made for the first event that needs them, by when the first task is running.

    Parameters
    ----------
    label
        Text before the bar.
    make
        Makes the bar, given its label; None for one on the terminal.

    """

    def __init__(self, label: str, make: Callable[[str], Bar] | None = None) -> None:
        self._label, self._make = label, make
        self.bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar from the terminal."""
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: events.Event) -> None:
        """Move the bar to show progress; print any other event above it."""
        if isinstance(event, events.Started) and self.bar is None:
            columns = max(1, shutil.get_terminal_size().columns)
            print(textwrap.fill(started_line(event), columns, break_long_words=False), flush=True)
        elif isinstance(event, SHOWN):
            if self.bar is None:
                self.bar = (self._make or _bar)(self._label)
            self.bar.show(event)


def _bar(label: str) -> Bar:
    from dovetail.engine.cli.report.bar import Bar

    return Bar(label)


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
    return LiveDisplay(label) if _is_movable() else PlainDisplay()


def _is_terminal() -> bool:
    """Whether standard output is a terminal; where it is closed, there is none."""
    try:
        return sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # closed by this process
        return False


def _is_movable() -> bool:
    """Whether standard output is a terminal in which a bar can move, as rich decides this."""
    compatible, forced = os.environ.get("TTY_COMPATIBLE", ""), os.environ.get("FORCE_COLOR")
    asked = _is_terminal() if forced is None else forced != ""
    terminal = compatible == "1" if compatible in ("0", "1") else asked
    return terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
