"""Searches that are stopped, killed, continued, finished, or that meet folders of others."""

from __future__ import annotations

import json
import os
import threading

import pytest

from dovetail.engine import events, merge
from dovetail.engine.errors import (
    InterruptedMergeError,
    OutputError,
)
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.searching.search import search
from tests.checkpoints import folder_bytes
from tests.engine.conftest import Family
from tests.engine.searching.searches import Weights, history_of, in_memory, marked


class Stop(Exception):
    """Stops a search from within."""


@pytest.mark.parametrize("evaluations", [1, 3])
def test_continues_where_it_was_stopped(family: Family, evaluations: int) -> None:
    """A search that is stopped after every few candidates evaluates none twice, and ends like one that is not."""
    expected = Weights(family)
    search(marked(family), expected.losses, family.home / "whole", in_memory(budget=12))
    weights, rounds = Weights(family), 0
    while not family.out.exists():
        rounds += 1
        told = 0

        def hear(event: events.Event) -> None:
            nonlocal told
            told += isinstance(event, events.Candidate)
            if told == 4:
                raise Stop

        try:
            how = in_memory(budget=12, evaluations=evaluations)
            search(marked(family), weights.losses, family.out, how, listen=hear)
        except Stop:
            for thread in threading.enumerate():  # let evaluations that were begun come to their end
                if thread.daemon and thread is not threading.current_thread():
                    thread.join(0.2)
    assert rounds > 2
    assert history_of(family.home / "whole") == history_of(family.out)
    assert folder_bytes(family.home / "whole" / "model") == folder_bytes(family.out / "model")
    if evaluations == 1:
        assert expected.calls == weights.calls


@pytest.mark.parametrize("given", ["folder", "arrays"])
def test_kills(family: Family, given: str) -> None:
    """Killed at any instant, again and again, a search repeats nothing that was scored and ends like any other."""
    from tests.engine.searching.kills import kill_until_done

    outcome = kill_until_done(family, family.home / "kills", kills=3, seed=1, given=given, budget=8)
    assert outcome.kills >= 3
    assert outcome.expected == outcome.found
    assert [] == outcome.repeated


def test_interrupts(family: Family) -> None:
    """A request to stop ends the search with one line that says what is safe and how to continue."""

    def hear(event: events.Event) -> None:
        if isinstance(event, events.Candidate) and event.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedMergeError) as caught:
        search(marked(family), Weights(family).losses, family.out, in_memory(), listen=hear)
    assert f"search interrupted; what 3 candidates of at most 20 gave is safe in {family.staging}" in str(caught.value)
    assert str(caught.value).endswith("run the same command again to continue")


def test_a_larger_budget_goes_on(family: Family) -> None:
    """An unfinished search may get another budget; a finished one is another search."""
    weights = Weights(family)

    def hear(event: events.Event) -> None:
        if isinstance(event, events.Candidate) and event.number == 5:
            raise Stop

    with pytest.raises(Stop):
        search(marked(family), weights.losses, family.out, in_memory(budget=8), listen=hear)
    search(marked(family), weights.losses, family.out, in_memory(budget=12))
    assert 12 == weights.calls
    with pytest.raises(OutputError, match="is not empty and holds another search"):
        search(marked(family), weights.losses, family.out, in_memory(budget=13))


def test_finished_searches(family: Family) -> None:
    """The same search again has nothing to do; another one, or other inputs, are refused unless it may be replaced."""
    weights = Weights(family)
    first = search(marked(family), weights.losses, family.out, in_memory(budget=3))
    heard: list[events.Event] = []
    again = search(marked(family), weights.losses, family.out, in_memory(budget=3), listen=heard.append)
    assert (3, first) == (weights.calls, again)
    assert heard[-1].already  # type: ignore[attr-defined]
    os.utime(family.math / "model.safetensors", (1, 1))
    for how in (in_memory(budget=3), in_memory(budget=3, seed=1)):
        with pytest.raises(OutputError, match="holds another search"):
            search(marked(family), weights.losses, family.out, how)
    search(marked(family), weights.losses, family.out, in_memory(budget=2), run=RunOptions(overwrite=True))
    assert (5, 2) == (weights.calls, len(json.loads(history_of(family.out))["candidates"]))


def test_other_folders_are_spared(family: Family) -> None:
    """An output that holds something else, or that is an input, is refused before anything is read."""
    family.out.mkdir()
    (family.out / "diary").write_text("dear")
    with pytest.raises(OutputError, match="is not empty; expected a new or empty folder, or this very search"):
        search(marked(family), lambda given: 1, family.out, in_memory())
    with pytest.raises(OutputError, match="lies inside the input"):
        search(marked(family), lambda given: 1, family.math / "out", in_memory())
    with pytest.raises(OutputError, match="holds, is or lies inside the input"):
        search(marked(family), lambda given: 1, family.math, in_memory(), run=RunOptions(overwrite=True))


def test_unfinished_merges_are_spared(family: Family) -> None:
    """The working folder of a merge into the same output is no search's, until it may be thrown away."""
    family.staging.mkdir()
    (family.staging / "dovetail_journal").write_bytes(b'{"format": "dovetail-journal"}\n' + bytes(64))
    with pytest.raises(OutputError, match="it holds something else than an unfinished search"):
        search(marked(family), lambda given: 1, family.out, in_memory(budget=1))
    search(marked(family), lambda given: 1, family.out, in_memory(budget=1), run=RunOptions(restart=True))


def test_unfinished_searches_are_spared(family: Family) -> None:
    """Nor is the working folder of a search a merge's."""

    def hear(event: events.Event) -> None:
        if isinstance(event, events.Candidate):
            raise Stop

    with pytest.raises(Stop):
        search(marked(family), lambda given: 1, family.out, in_memory(), listen=hear)
    with pytest.raises(OutputError, match="cannot be continued"):
        merge(family.recipe_path, family.out)
