"""Parts on machines that see what others do late, as over NFS; skipped where no such file system can be mounted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.engine import RunOptions, events, merge
from tests.engine.actions.making_parts import in_one_piece
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often
from tests.engine.outputs import contents
from tests.nfs import Machines, machines, why_not
from tests.parts import end, start

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

MACHINES = 2
"""Machines that share the folder of a test."""


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut merges into many tasks and commit them in small groups."""
    commit_often(monkeypatch)


@pytest.fixture
def shared(family: Family) -> Iterator[Machines]:
    """Make machines that remember what they have seen of the family's folder for longer than a test takes."""
    with machines(family.home, MACHINES, seconds=120) as found:
        yield found


def begin(shared: Machines, machine: int, family: Family, part: str) -> int:
    """Begin to make a part on a machine; give the process, which writes what it has told beside the models."""

    def work() -> None:
        shared.enter(machine)
        assert not family.out.exists()  # this is remembered
        seen: list[events.Event] = []
        merge(family.recipe_path, family.out, None, RunOptions(part=part, workers=1), seen.append)
        ends = [str(event.already) for event in seen if isinstance(event, events.Done)]
        (family.home / f"told-{part.replace('/', '-')}-{machine}").write_text(" ".join(ends))

    return start(work)


def tidy_up(family: Family, part: str) -> None:
    """Run a command again: what a process had open when another one published is removed by whoever comes after."""
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, None, RunOptions(part=part, workers=1), seen.append)
    assert [True] == [event.already for event in seen if isinstance(event, events.Done)]


@pytest.mark.parametrize("count", [3, 8])
def test_parts_on_machines(family: Family, shared: Machines, count: int) -> None:
    """All parts at the same time, on machines that never learn by themselves what others do, give the right bytes."""
    children = [begin(shared, number % MACHINES, family, f"{number}/{count}") for number in range(1, count + 1)]
    assert [0] * count == [end(child) for child in children]
    told = [path.read_text() for path in family.home.glob("told-*")]
    assert 1 == told.count("False")
    tidy_up(family, f"1/{count}")
    assert in_one_piece(family) == contents(family.out)
    assert not family.staging.exists()


def test_a_part_is_started_on_two_machines(family: Family, shared: Machines) -> None:
    """Their locks do not see each other; both make the same bytes, and who comes last finds the output published."""
    children = [begin(shared, machine, family, "1/1") for machine in range(MACHINES)]
    assert [0] * MACHINES == [end(child) for child in children]
    assert ["False", "True"] == sorted(path.read_text() for path in family.home.glob("told-*"))
    tidy_up(family, "1/1")
    assert in_one_piece(family) == contents(family.out)
    assert [] == [path for path in family.home.glob(".*") if "partial" in path.name]


def test_parts_that_a_machine_has_not_seen(family: Family, shared: Machines) -> None:
    """A process without a part continues what another machine has begun, though it remembers that nothing was there."""
    family.staging.mkdir()

    def look() -> None:
        shared.enter(1)
        assert not (family.staging / "dovetail_parts").exists()
        assert not (family.staging / "dovetail_lock").exists()

    def make_the_rest() -> None:
        shared.enter(1)
        seen: list[events.Event] = []
        merge(family.recipe_path, family.out, None, RunOptions(workers=1), seen.append)
        (done,) = (event for event in seen if isinstance(event, events.Done))
        assert 0 < done.written_bytes < 74_880

    assert 0 == end(start(look))
    assert 0 == end(begin(shared, 0, family, "1/2"))
    assert 0 == end(start(make_the_rest))
    assert in_one_piece(family) == contents(family.out)


def test_what_is_not_synced_is_lost_with_its_machine(tmp_path: Path) -> None:
    """The machines do what these tests need: what is synced is seen by others, and what is not is lost in a crash."""
    with machines(tmp_path, MACHINES, seconds=120) as shared:

        def write() -> None:
            shared.enter(0)
            with (tmp_path / "synced").open("wb") as file, (tmp_path / "not").open("wb", buffering=0) as other:
                file.write(b"here")
                file.flush()
                other.write(b"gone")
                os.fsync(file.fileno())
                (tmp_path / "ready").write_bytes(b"now")
                time.sleep(60)

        child = start(write)
        while not (tmp_path / "ready").exists() or not (tmp_path / "ready").read_bytes():
            time.sleep(0.01)
        assert b"here" == (tmp_path / "synced").read_bytes()
        shared.crash(0, [child])
        assert end(child) is None
        assert b"" == (tmp_path / "not").read_bytes()
