"""Showing a merge: a live bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from dovetail.engine import events
from dovetail.engine.cli.report import bar, display
from dovetail.engine.cli.report.bar import Bar
from dovetail.engine.cli.report.display import JsonDisplay, LiveDisplay, PlainDisplay, QuietDisplay, choose_display

STARTED = events.Started(
    method="cabs",
    tensors=291,
    tasks=900,
    read_bytes=3 * 2**30,
    write_bytes=2**30,
    allowed_bytes=512 * 2**20,
    reserved_bytes=170 * 2**20,
    projected_bytes=300 * 2**20,
    workers=2,
    staging="/tmp/.out.dovetail-partial",
)
HALFWAY = events.Progress(done_bytes=2**31, total_bytes=2**32, seconds=4.0, resident_bytes=250 * 2**20)
WARNING = events.Notice("warning", "[red]not markup[/red]")
COMMITTED = events.Committed(tasks=3, bytes=100)
LEARNT = events.Trained(
    done_images=150, total_images=600, epoch=1, epochs=4, seconds=2.0, loss=1.23456, validation=0.625
)


def bar_on(screen: io.StringIO) -> Callable[[str], Bar]:
    """Give what makes a bar on a wide terminal without colours."""
    return lambda label: Bar(label, Console(file=screen, force_terminal=True, width=140, color_system=None))


def look(live: LiveDisplay, screen: io.StringIO) -> str:
    """Give all that a terminal was sent, up to now."""
    assert live.bar is not None
    progress = live.bar._progress
    with progress.live._lock:  # nothing else is drawn between drawing and looking
        progress.refresh()
        return screen.getvalue()


def test_the_live_bar() -> None:
    """On a terminal one bar shows bytes done, speed and memory; notices stand above it, and it goes away at the end."""
    screen = io.StringIO()
    with LiveDisplay("merging", bar_on(screen)) as live:
        for event in (WARNING, STARTED, HALFWAY, COMMITTED):
            live(event)
        shown = look(live, screen)
    assert "cabs: 291 tensors, reading 3 GiB, writing 1 GiB, 2 workers, at most 300 MiB of 512 MiB allowed" in shown
    assert "warning: [red]not markup[/red]" in shown
    bar = shown.splitlines()[-1]
    for part in ("merging", "50%", "2 GiB of 4 GiB", "0.54 GB/s", "250 MiB resident"):
        assert part in bar
    assert screen.getvalue().endswith("\x1b[2K")  # the line of the bar is cleared


def test_the_bar_waits_for_its_first_task(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a merge will do is told before there is a bar, folded between words where the terminal is narrow."""
    monkeypatch.setenv("COLUMNS", "60")
    screen = io.StringIO()
    with LiveDisplay("merging", bar_on(screen)) as live:
        live(STARTED)
        live(COMMITTED)
        assert live.bar is None
        live(HALFWAY)
        assert "50%" in look(live, screen)
    lines = capsys.readouterr().out.splitlines()
    assert "cabs: 291 tensors, reading 3 GiB, writing 1 GiB, 2 workers, at most 300 MiB of 512 MiB allowed" == (
        " ".join(lines)
    )
    assert 60 >= max(map(len, lines))


def test_the_bar_moves_as_often_as_anyone_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the events of many short tasks the bar shows some; what stands above it is shown at once."""
    now, screen = [0.0], io.StringIO()
    with LiveDisplay("merging", bar_on(screen)) as live:
        monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
        for second, shown in ((1.0, "25%"), (1.05, "25%"), (1.15, "75%")):
            now[0] = second
            live(replace(HALFWAY, done_bytes=2**30 if second == 1.0 else 3 * 2**30))
            assert shown in look(live, screen).splitlines()[-1]
        live(WARNING)
        assert "warning: [red]not markup[/red]" in look(live, screen)


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is a line every few seconds and not a line for every task; warnings go to stderr."""
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    with PlainDisplay() as plain:
        plain(STARTED)
        plain(WARNING)
        for second in (1, 9.9, 10, 11, 19.9, 20.1):
            now[0] = second
            plain(HALFWAY)
    out, err = capsys.readouterr()
    progress = " 50.0%  2 GiB of 4 GiB  0.54 GB/s  250 MiB resident"
    assert [progress, progress] == out.splitlines()[1:]
    assert "warning: [red]not markup[/red]\n" == err


def test_the_progress_of_a_training(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A training shows its epoch, loss and accuracy, in a bar or in a line every few seconds."""
    screen, now = io.StringIO(), [0.0]
    with LiveDisplay("training", bar_on(screen)) as live:
        live(LEARNT)
        bar = look(live, screen).splitlines()[-1]
    for part in ("training", "25%", "epoch 2 of 4", "loss 1.235", "62.5% right in validation"):
        assert part in bar
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    with PlainDisplay() as plain:
        for second in (1, 10, 19):
            now[0] = second
            plain(LEARNT)
        now[0] = 20
        plain(events.Trained(600, 600, 4, 4, 9.0, 0.5, None))
    lines = [" 25.0%  epoch 2 of 4  loss 1.235  62.5% right in validation", "100.0%  epoch 4 of 4  loss 0.500"]
    assert lines == capsys.readouterr().out.splitlines()


def test_one_object_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON every event is one line that a program can read back."""
    with JsonDisplay() as lines:
        for event in (STARTED, WARNING, HALFWAY, COMMITTED):
            lines(event)
    out, _ = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert ["started", "notice", "progress", "committed"] == [event["event"] for event in found]
    assert {"event": "committed", "tasks": 3, "bytes": 100} == found[-1]


def test_only_warnings_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Quiet is silent but for warnings."""
    with QuietDisplay() as quiet:
        for event in (STARTED, HALFWAY, events.Notice("info", "nothing"), WARNING):
            quiet(event)
    assert ("", "warning: [red]not markup[/red]\n") == tuple(capsys.readouterr())


def test_the_choice_of_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options come first, then whether there is a terminal."""
    assert isinstance(choose_display(quiet=True, as_json=True), JsonDisplay)
    assert isinstance(choose_display(quiet=True, as_json=False), QuietDisplay)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for terminal, kind in ((True, LiveDisplay), (False, PlainDisplay)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda found=terminal: found)
        assert isinstance(choose_display(quiet=False, as_json=False), kind)


@pytest.mark.parametrize("force", [None, "", "1"])
@pytest.mark.parametrize("compatible", [None, "0", "1"])
@pytest.mark.parametrize("term", ["", "xterm", "dumb", "Unknown"])
@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_where_rich_would_draw_one(
    force: str | None, compatible: str | None, term: str, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there is a bar follows the same variables as colours do, though rich is not asked."""
    for name, value in (("FORCE_COLOR", force), ("TTY_COMPATIBLE", compatible), ("TERM", term)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    console = Console()
    expected = LiveDisplay if console.is_terminal and not console.is_dumb_terminal else PlainDisplay
    assert expected is type(choose_display(quiet=False, as_json=False))


@pytest.mark.parametrize("closed", [True, False])
def test_a_closed_standard_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    """A command whose standard output is closed, by whoever started it or since, draws no bar, and does not fail."""
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stdout", stream if closed else None)
    for name in ("TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    assert not display._is_movable()
