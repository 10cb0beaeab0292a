"""File systems that have no locks, or do not answer: merges go on with a warning, and a second process does no harm."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from dovetail.engine import PlanOptions, RunOptions, SafetensorsFormat, events, merge, read_manifest
from dovetail.engine.run import lock
from tests import no_locks
from tests.engine.actions.ready_parts import OPTIONS, make, published
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often
from tests.engine.outputs import contents
from tests.faults.preload import compiler
from tests.parts import end, start


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut merges into many tasks and commit them in small groups."""
    commit_often(monkeypatch)


def no_flock(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Make every lock an error, as on a file system without locks."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_parts_started_twice_without_locks(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no locks, two processes of each part make the same bytes, and one of all publishes them."""
    merge(family.recipe_path, family.home / "expected", OPTIONS)
    told = family.home / "told"

    def work(part: str, error: int) -> None:
        no_flock(monkeypatch, error)
        seen = make(family, part)
        warned = any("has no locks" in event.text for event in seen if isinstance(event, events.Notice))
        with told.open("a") as file:
            file.write(f"{warned} {published(seen)}\n")

    started = zip(("1/2", "2/2", "1/2", "2/2"), (*no_locks.REFUSALS, errno.ENOSYS), strict=True)
    children = [start(lambda part=part, error=error: work(part, error)) for part, error in started]
    assert [0] * 4 == [end(child) for child in children]
    assert 1 == told.read_text().count("[True]")
    assert "True" in told.read_text()
    assert contents(family.home / "expected") == contents(family.out)
    assert not family.staging.exists()


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_whole_commands_without_locks(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands go on, with a warning, whose locks the system refuses: one part started twice; the other comes then."""
    monkeypatch.undo()  # chunks are cut here as in the commands
    library = no_locks.build(family.home)
    command = ("merge", family.recipe_path, family.out, "--part", "1/2")
    started = [no_locks.begin(library, errno.EOPNOTSUPP, command) for _ in range(2)]
    texts = [process.communicate()[1] for process in started]
    assert [0, 0] == [process.returncode for process in started]
    merge(family.recipe_path, family.out, run=RunOptions(part="2/2"))
    assert [True] * 2 == ["has no locks" in text or "is this merge already" in text for text in texts]
    merge(family.recipe_path, family.home / "expected", PlanOptions(SafetensorsFormat(_shard_bytes(family.out))))
    assert contents(family.home / "expected") == contents(family.out)
    assert not family.staging.exists()


def _shard_bytes(out: Path) -> int:
    size: int = read_manifest(out)["options"]["shard_size_bytes"]
    return size


def test_two_undivided_merges_without_locks(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge goes on with a warning where there are no locks, and a second one at the same time does no harm."""
    merge(family.recipe_path, family.home / "expected", OPTIONS)
    no_flock(monkeypatch, errno.ENOLCK)
    children = [start(lambda: merge(family.recipe_path, family.out, OPTIONS, RunOptions(workers=1))) for _ in range(3)]
    assert [0] * 3 == [end(child) for child in children]
    assert contents(family.home / "expected") == contents(family.out)
    seen: list[events.Event] = []
    merge(family.recipe_path, family.home / "alone", OPTIONS, listen=seen.append)
    (warning,) = (event.text for event in seen if isinstance(event, events.Notice) and event.level == "warning")
    assert (
        f"The file system of {family.home} has no locks, so that nothing keeps a second process from making the same "
        "output at the same time: start only one."
    ) == warning
    assert contents(family.home / "expected") == contents(family.home / "alone")


def test_a_file_system_that_does_not_answer(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock whose server never answers is waited for once, for a while; the merge goes on with a warning."""
    import threading

    asked, never = [], threading.Event()

    def hang(descriptor: int, operation: int) -> None:
        asked.append(operation)
        never.wait()

    monkeypatch.setattr(fcntl, "flock", hang)
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_silent", set())
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, OPTIONS, listen=seen.append)
    never.set()
    assert family.out.exists()
    assert 1 == len(asked)
    assert any("has no locks" in event.text for event in seen if isinstance(event, events.Notice))
