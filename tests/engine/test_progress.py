"""Progress that callers from Python ask for: a bar where there is one, lines elsewhere, or events for a function."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rich import console as rich_console

from dovetail.engine import (
    ExtractionOptions,
    compare,
    convert,
    events,
    extract_lora,
    make_moe,
    make_vectors,
    merge,
    merge_tensors,
    progress,
    recompute,
    verify,
)
from tests.engine.conftest import Family

RICH = rich_console.Console
HALF = events.Progress(done_bytes=2**20, total_bytes=2**21, seconds=2.0, resident_bytes=0)
WHOLE = events.Progress(done_bytes=2**21, total_bytes=2**21, seconds=4.0, resident_bytes=0)
NOTICE = events.Notice("warning", "a model has [no] head")


def pretend(monkeypatch: pytest.MonkeyPatch, **facts: bool) -> io.StringIO:
    """Let rich take the output for a terminal or a notebook; give what it prints."""
    out = io.StringIO()
    real = RICH

    def make() -> Any:
        console = real(file=out, force_terminal=facts.get("terminal", False), width=120)
        console.is_jupyter = facts.get("jupyter", False)
        return console

    monkeypatch.setattr(rich_console, "Console", make)
    return out


def show(label: str = "merging") -> None:
    """Show what a merge would report."""
    with progress.followed(True, events.ignore, label) as listen:
        for event in (NOTICE, HALF, WHOLE):
            listen(event)


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar says bytes done and to do, and the rate; warnings are printed above it, whatever they hold."""
    out = pretend(monkeypatch, terminal=True)
    show()
    text = out.getvalue()
    assert "warning: a model has [no] head\n" in text
    assert "merging" in text
    assert "2.0/2.0 MiB" in text
    assert "100%" in text


def test_a_notebook_without_widgets_has_the_bar_of_tqdm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where rich cannot move a bar, tqdm does, in the same bytes."""
    pretend(monkeypatch, jupyter=True)
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ipywidgets" else known(name))
    show()
    said = capsys.readouterr()
    assert "2.00M/2.00M" in said.err
    assert "warning: a model has [no] head\n" in said.out


def test_without_any_bar_there_are_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In logs, and in notebooks without any library for bars, a line is printed now and then."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for jupyter in (False, True):
        pretend(monkeypatch, jupyter=jupyter)
        show()
        said = capsys.readouterr()
        first, last = said.out.splitlines()
        assert "merging 50.0%: 1 MiB of 2 MiB, 512 KiB/s, 2 s left" == first
        assert "merging 100.0%: 2 MiB of 2 MiB, 512 KiB/s, 0 s left" == last
        assert "warning: a model has [no] head\n" == said.err


def test_every_function_reports(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function given as progress receives the events that a listener does, and the listener still receives them."""
    monkeypatch.chdir(family.home)
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in ("math", "code")]
    recipe = {"merge_method": "linear", "models": models}
    calls: list[Callable[..., Any]] = [
        lambda **how: merge(recipe, "merged", **how),
        lambda **how: convert("math", "converted", **how),
        lambda **how: compare("math", "code", **how),
        lambda **how: verify("merged", **how),
        lambda **how: recompute("merged", 0.5, **how),
        lambda **how: merge_tensors("linear", [np.ones(64, np.float32)] * 2, weight=1, **how),
    ]
    experts = {"base_model": "base", "gate_mode": "random", "experts": [{"source_model": "math"}]}
    calls += [
        lambda **how: extract_lora("math", "base", "adapter", ExtractionOptions(rank=2), **how),
        lambda **how: make_moe({**experts, "experts": experts["experts"] * 2}, "mixture", **how),
        lambda **how: make_vectors("recipe.yml", "store", **how),
    ]
    for call in calls:
        heard: list[events.Event] = []
        listened: list[events.Event] = []
        call(progress=heard.append, listen=listened.append)
        (*_, last) = (event for event in heard if isinstance(event, events.Progress))
        assert last.done_bytes == last.total_bytes > 100
        assert heard == listened


def test_errors_end_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error leaves the call as it would without a bar."""
    out = pretend(monkeypatch, terminal=True)
    with pytest.raises(ValueError, match="no such"), progress.followed(True, events.ignore, "merging"):
        raise ValueError("no such thing")
    assert "merging" in out.getvalue()


def test_no_progress_is_shown_where_none_is_wanted() -> None:
    """Without progress, the listener is the caller's own."""
    with progress.followed(False, events.ignore, "merging") as listen:
        assert listen is events.ignore
