"""Showing the progress of a call from Python: by a bar in a terminal or a notebook, or to a function.

Bars show bytes done and to do, their rate and the time left. They are those of rich; in a notebook without
``ipywidgets``, where rich cannot move its bar, tqdm's if it is installed. Where there is neither, as in a log, a line
is printed every few seconds.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from dovetail.engine import events
from dovetail.engine.text import format_size

LINE_SECONDS = 10.0
"""Seconds between two lines where no bar can be shown."""


P = ParamSpec("P")
T = TypeVar("T")


def shows_progress(label: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make the decorator of a function with the parameters ``listen`` and ``progress``: it acts on the latter.

    Parameters
    ----------
    label
        What the function does, before its bar.

    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            progress: Any = kwargs.pop("progress", False)
            if not progress:
                return function(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            listen = bound.arguments.get("listen") or events.ignore
            with followed(progress, listen, label) as bound.arguments["listen"]:
                return function(*bound.args, **bound.kwargs)

        return call

    return decorate


@contextlib.contextmanager
def followed(progress: bool | events.Listener, listen: events.Listener, label: str) -> Iterator[events.Listener]:
    """Give the listener of a call, and show a bar during the block if the caller asks for one.

    Parameters
    ----------
    progress
        True for a bar; a function to receive every event; False for neither.
    listen
        Receives every event too.
    label
        What is done, before the bar.

    """
    if not progress:
        yield listen
        return
    with contextlib.nullcontext(progress) if callable(progress) else _display(label) as show:

        def both(event: events.Event) -> None:
            show(event)
            listen(event)

        yield both


def _display(label: str) -> contextlib.AbstractContextManager[events.Listener]:
    """Choose how progress is shown, by what the output goes to."""
    from rich.console import Console

    console = Console()
    if console.is_jupyter and not _installed("ipywidgets"):
        return _tqdm_bar(label) if _installed("tqdm") else _lines(label)
    return _rich_bar(console, label) if console.is_jupyter or console.is_terminal else _lines(label)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@contextlib.contextmanager
def _rich_bar(console: Any, label: str) -> Iterator[events.Listener]:
    """Show a bar of rich, which stays when the work is done."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), DownloadColumn(binary_units=True)),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None)

        def show(event: events.Event) -> None:
            if isinstance(event, events.Progress):
                bar.update(task, total=event.total_bytes, completed=event.done_bytes)
            elif text := _text(event):
                console.print(text, highlight=False, markup=False)

        yield show


@contextlib.contextmanager
def _tqdm_bar(label: str) -> Iterator[events.Listener]:
    """Show a bar of tqdm, which stays when the work is done."""
    from tqdm.auto import tqdm

    with tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024) as bar:

        def show(event: events.Event) -> None:
            if isinstance(event, events.Progress):
                bar.total = event.total_bytes
                bar.update(event.done_bytes - bar.n)
            elif text := _text(event):
                bar.write(text)

        yield show


@contextlib.contextmanager
def _lines(label: str) -> Iterator[events.Listener]:
    """Print a line now and then."""
    last = time.monotonic()

    def show(event: events.Event) -> None:
        nonlocal last
        if isinstance(event, events.Progress) and time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print(_line(label, event), flush=True)
        elif text := _text(event):
            print(text, file=sys.stderr, flush=True)

    yield show


def _line(label: str, event: events.Progress) -> str:
    """Write progress in one line: ``merging 25.0%: 1 GiB of 4 GiB, 512 MiB/s, 6 s left``."""
    rate = event.done_bytes / max(event.seconds, 1e-9)
    left = (event.total_bytes - event.done_bytes) / max(rate, 1e-9)
    share = event.done_bytes / max(1, event.total_bytes)
    return (
        f"{label} {share:.1%}: {format_size(event.done_bytes)} of {format_size(event.total_bytes)}, "
        f"{format_size(rate)}/s, {left:,.0f} s left"
    )


def _text(event: events.Event) -> str:
    """Give what a person should read of an event; empty if there is nothing."""
    if isinstance(event, events.Failed):
        return f"failed: {event.source}: {event.text}"
    if isinstance(event, events.Notice):
        return f"warning: {event.text}" if event.level == "warning" else event.text
    return ""
