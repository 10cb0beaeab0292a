"""Processes that make parts at the same time, are killed, and meet others: the bytes are always the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.engine import RunOptions, events, merge
from dovetail.engine.actions import carry_out_part
from dovetail.engine.errors import OutputError
from dovetail.engine.run import lock
from tests.crash import cases
from tests.engine.actions.ready_parts import OPTIONS, make
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often
from tests.engine.outputs import contents
from tests.part_kills import kill_parts
from tests.parts import end, start


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut merges into many tasks and commit them in small groups."""
    commit_often(monkeypatch)


def test_locks_are_closed_before_they_are_removed(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS a file that is open stays under another name, and so would the folder of the parts."""
    settle, holds = carry_out_part.settle, []

    def look(out: Path) -> None:
        for name in ("dovetail_lock", "dovetail_parts/of-1/1.lock"):
            assert (out / name).exists()
            with lock.hold_lock(out / name) as hold:
                holds.append(hold)
        settle(out)

    monkeypatch.setattr(carry_out_part, "settle", look)
    make(family, "1/1")
    assert [lock.Hold.OURS] * 2 == holds


def test_one_part_started_twice(family: Family) -> None:
    """While a process makes a part, a second one is refused, where the file system has locks."""

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Started):
            with pytest.raises(OutputError, match=f"another process is making part 1/2 of {family.out}; expected one"):
                make(family, "1/2")

    merge(family.recipe_path, family.out, OPTIONS, RunOptions(part="1/2"), listen)
    make(family, "2/2")
    merge(family.recipe_path, family.home / "expected", OPTIONS)
    assert contents(family.home / "expected") == contents(family.out)


@pytest.mark.parametrize(("name", "kills"), [("cabs-magnitude-3", 3), ("magnitude-shards", 1)])
def test_killed_at_random_instants(tmp_path: Path, name: str, kills: int) -> None:
    """Killed at any instant, several at once, two of one part, divided anew: the result is always the same.

    ``python -m bench.parts --kills 50`` kills more. With this seed, in the first case some begin a part that another
    one has, parts of several numbers of parts meet, and one is killed that publishes.
    """
    (case,) = (case for case in cases() if case.name == name)
    tally = end(start(lambda: kill_parts(tmp_path, case, kills, seed=716)))
    assert 0 == tally
