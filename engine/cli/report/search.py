"""Showing a search: what is best, what came last and what is left, live in a terminal; else a line a candidate."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from dovetail.engine import events
from dovetail.engine.cli.report.console import new_table, show
from dovetail.engine.cli.report.display import Display, QuietDisplay
from dovetail.engine.searching.history import shown_result, shown_value
from dovetail.engine.text import counted, format_size

if TYPE_CHECKING:
    from dovetail.engine.searching.history import SearchResult

_MOST_COLUMNS = 8
"""Most searched values that have a column of their own in a table."""


class _Follower:
    """Remembers what a search has told: the best candidate and the last."""

    def __init__(self) -> None:
        self.best: events.Candidate | None = None
        self.last: events.Candidate | None = None

    def follow(self, event: events.Candidate) -> None:
        """Take a candidate in."""
        self.last = event
        if event.cost is not None and (self.best is None or self.best.cost is None or event.cost < self.best.cost):
            self.best = event


class PlainSearch:
    """Prints a line for every candidate, for logs and pipes."""

    def __init__(self) -> None:
        self._follower = _Follower()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing, because nothing is open."""

    def __call__(self, event: events.Event) -> None:
        """Print one event."""
        if isinstance(event, events.Notice):
            print(_notice(event), file=sys.stderr, flush=True)
        elif isinstance(event, events.SearchStarted):
            print(_started(event), flush=True)
        elif isinstance(event, events.Candidate):
            self._follower.follow(event)
            best = "  best so far" if event is self._follower.best and event.number else ""
            values = ", ".join(f"{name} {shown_value(value)}" for name, value in event.values.items())
            outcome = f"failed: {event.failure}" if event.failure else shown_result(event.result)
            print(f"{event.number + 1}/{event.budget}: {values}: {outcome}{best}", flush=True)


class QuietSearch(QuietDisplay):
    """Prints warnings and failures only."""

    def __call__(self, event: events.Event) -> None:
        """Print one event."""
        super().__call__(event)
        if isinstance(event, events.Candidate) and event.failure:
            print(f"warning: candidate {event.number} failed: {event.failure}", file=sys.stderr, flush=True)


class LiveSearch:
    """Shows a table with the best candidate and the last, and what is left."""

    def __init__(self, console: Console) -> None:
        self._console, self._follower = console, _Follower()
        self._live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the table from the terminal."""
        self._live.stop()

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        if isinstance(event, events.Notice):
            style = "dim" if event.level == "info" else "yellow"
            self._console.print(_notice(event), style=style, highlight=False, markup=False)
        elif isinstance(event, events.SearchStarted):
            self._console.print(_started(event), highlight=False, markup=False)
        elif isinstance(event, events.Candidate):
            if event.failure:
                text = f"failed: candidate {event.number}: {event.failure}"
                self._console.print(text, style="yellow", highlight=False, markup=False)
            self._follower.follow(event)
            self._live.update(self.table(), refresh=True)

    def table(self) -> Group:
        """Draw the table."""
        last = self._follower.last
        assert last is not None
        rows = {"best": self._follower.best, "last": last}
        left = f"{counted(last.budget - last.evaluated, 'evaluation')} left, about {_time(last.seconds_left)}"
        return Group(candidates_table(rows), Text(left))


def choose_search_display(*, quiet: bool, as_json: bool) -> Display:
    """Choose the display of a search for the user's options and for where the command's output goes."""
    if as_json:
        return _JsonSearch()
    if quiet:
        return QuietSearch()
    console = Console()
    return LiveSearch(console) if console.is_terminal and not console.is_dumb_terminal else PlainSearch()


class _JsonSearch(PlainSearch):
    """Prints each event as a JSON object on one line."""

    def __call__(self, event: events.Event) -> None:
        """Print one event."""
        print(json.dumps(event.to_json()), flush=True)


def candidates_table(rows: Mapping[str, events.Candidate | None]) -> Any:
    """Make a table of candidates: a row each, with the title of the row, the number, the values and the result."""
    some = next(each for each in rows.values() if each is not None)
    names = list(some.values)[:_MOST_COLUMNS]
    table = new_table("", "number", *map(escape, names), "result", texts=1)
    for title, each in rows.items():
        if each is not None:
            values = (Text(shown_value(each.values[name])) for name in names)
            table.add_row(title, str(each.number), *values, Text(shown_result(each.result)))
    return table


def print_search(found: SearchResult) -> None:
    """Say what a search has found: the start beside the best candidate, and where everything lies."""
    history = found.history
    rows = {"start": history["candidates"][0], "best": history["candidates"][history["best"]]}
    names = list(found.values)
    table = new_table("", "start", "best", texts=1)
    for name in names:
        table.add_row(Text(name), *(Text(shown_value(row["values"][name])) for row in rows.values()))
    tasks = (
        found.result
        if isinstance(found.result, Mapping)
        else {"score" if history["objective"] == "score" else "loss": 0}
    )
    for task in tasks:
        table.add_row(task, *(Text(_loss(row["result"], task)) for row in rows.values()))
    failed = f", {history['failed']} of which failed" if history["failed"] else ""
    show(
        table,
        "",
        f"{counted(found.evaluated, 'candidate')} evaluated{failed}; stopped: {found.stopped}",
        f"{found.model} is the best one merged, {found.recipe} its recipe, {found.output / 'history.json'} all of them",
    )


def _loss(result: Any, task: str) -> str:
    if result is None:
        return "failed"
    number = result[task] if isinstance(result, Mapping) else result
    return f"{number:.6g}"


def _notice(event: events.Notice) -> str:
    return f"warning: {event.text}" if event.level == "warning" else event.text


def _started(event: events.SearchStarted) -> str:
    left = event.budget - event.evaluated
    return (
        f"{event.method}: searching {', '.join(event.searched)} by {event.optimizer}; at most "
        f"{counted(left, 'candidate')} of {format_size(event.candidate_bytes)}, {event.evaluations} at once"
    )


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
