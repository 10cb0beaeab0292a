"""``dovetail status`` tells how far an output is, from its folders alone, and changes nothing."""

from __future__ import annotations

import json
import os
import socket

import pytest

from dovetail.engine import RunOptions, events, merge
from dovetail.engine.actions import publish_parts
from dovetail.engine.actions.status import status
from dovetail.engine.errors import InterruptedMergeError, OutputError
from dovetail.engine.run.parts.folder import parts_path
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import OPTIONS, Interrupter, commit_often, interrupt
from tests.engine.outputs import Killed, contents


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut merges into many tasks and commit them in small groups."""
    commit_often(monkeypatch)


def make(family: Family, part: str) -> None:
    """Make a part."""
    merge(family.recipe_path, family.out, OPTIONS, RunOptions(part=part, workers=1))


def test_parts_that_are_left(family: Family) -> None:
    """Parts that are done are left out; of the others it says who has worked on them, and how to make them."""
    make(family, "2/4")
    with pytest.raises(InterruptedMergeError):
        merge(family.recipe_path, family.out, OPTIONS, RunOptions(part="4/4", workers=1), Interrupter(3))
    family.recipe_path.unlink()  # nothing of it is needed
    before = contents(family.staging)
    found = status(family.out)
    assert before == contents(family.staging)
    (division,) = found.divisions
    assert ("unfinished", "merge", 4, "1,3-4") == (found.state, found.noun, division.parts, division.array)
    assert 0 < (found.share_done or 0) < 1
    nobody, _, begun = division.left
    assert (None, 0.0) == (nobody.worker, nobody.share_done)
    assert begun.worker is not None
    assert ("4/4", socket.gethostname(), os.getpid()) == (begun.worker.part, begun.worker.host, begun.worker.process)
    assert begun.worker.began <= begun.worker.last + 1
    assert 0 < begun.share_done < 1
    outcome = dovetail("status", family.out)
    assert 0 == outcome.code
    first, left, *parts, how = outcome.out.splitlines()
    assert first.startswith(f"merge into {family.out}: ")
    assert "3 of 4 parts left:" == left
    assert ["  part 1/4: 0% done, nobody has begun it", "  part 3/4: 0% done, nobody has begun it"] == parts[:2]
    assert parts[2].endswith(" seconds ago")
    assert (
        "To make them: --array=1,3-4 with --part $SLURM_ARRAY_TASK_ID/4; or any number of parts, such as --array=1-3 "
        "with --part auto."
    ) == how
    as_json = json.loads(dovetail("status", family.out, "--json").out)
    assert ("1,3-4", 1) == (as_json["divisions"][0]["array"], as_json["divisions"][0]["left"][0]["part"])


def test_what_is_left_to_move(family: Family) -> None:
    """The bytes that are left are those that a process has to read and write that does all the rest."""
    make(family, "1/3")
    found = status(family.out)
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, OPTIONS, listen=seen.append)
    (started,) = (event for event in seen if isinstance(event, events.Started))
    assert found.left_bytes == started.read_bytes + started.write_bytes
    assert "finished" == status(family.out).state
    assert f"{family.out} is finished; dovetail verify checks every byte of it.\n" == dovetail("status", family.out).out


def test_all_done_and_not_published(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the last process is killed before it has published, the status says what to do."""

    def die(*_: object) -> None:
        raise Killed

    make(family, "1/2")
    with monkeypatch.context() as patched:
        patched.setattr(publish_parts, "put_in_place", die)
        with pytest.raises(Killed):
            make(family, "2/2")
    assert "unpublished" == status(family.out).state
    assert "make any part again" in dovetail("status", family.out).out


def test_one_process_alone(family: Family) -> None:
    """What one process has begun without parts is told as such."""
    interrupt(family)
    found = status(family.out)
    assert ("unfinished", None, ()) == (found.state, found.share_done, found.divisions)
    assert found.last is not None
    assert "was begun by one process without --part; its last chunk was done" in dovetail("status", family.out).out


def test_nothing_is_there(family: Family) -> None:
    """A name under which nothing is made is an error."""
    with pytest.raises(OutputError):
        status(family.out)
    outcome = dovetail("status", family.out)
    assert (
        5,
        f"error: nothing is made at {family.out}; expected an output that is finished, or that somebody has begun; "
        "check the name\n",
    ) == (outcome.code, outcome.err)


def test_a_damaged_decision(family: Family) -> None:
    """What the processes have agreed on has a checksum; damage is named, and never guessed around."""
    make(family, "1/2")
    path = parts_path(family.staging) / "layout" / "decided"
    path.write_bytes(path.read_bytes().replace(b"merge", b"purge", 1))
    with pytest.raises(OutputError, match=f"{path} is damaged"):
        status(family.out)
    with pytest.raises(OutputError, match=f"{path} is damaged"):
        make(family, "2/2")
