"""Background commits are durable before they are journalled, bounded in size, and lose no error."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from dovetail.engine.run.commit import Committer
from dovetail.engine.run.task import TaskRecord
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.pace import HANGS_S


def _record(task: int, written_bytes: int = 10) -> TaskRecord:
    return TaskRecord(task, 0, None, (), 0, written_bytes)


def test_every_record_is_flushed_before_it_is_committed() -> None:
    """Each record is passed on once and in order, after its group has been flushed."""
    flushed: list[int] = []
    committed: list[int] = []

    def flush(group: Sequence[TaskRecord]) -> None:
        flushed.extend(record.task for record in group)

    def commit(group: Sequence[TaskRecord]) -> None:
        committed.extend(record.task for record in group)
        assert committed == flushed

    committer = Committer(flush, commit, 1000)
    for task in range(50):
        committer.put(_record(task))
    committer.close()
    assert list(range(50)) == committed


def test_put_waits_while_too_much_is_unwritten() -> None:
    """A slow disk holds the merge back instead of filling memory with dirty pages."""
    release = threading.Event()
    committer = Committer(lambda group: (release.wait(HANGS_S), None)[1], lambda group: None, 100)
    committer.put(_record(0, 60))
    entered, left = threading.Event(), threading.Event()

    def put() -> None:
        entered.set()
        committer.put(_record(1, 60))
        left.set()

    thread = threading.Thread(target=put)
    thread.start()
    assert entered.wait(HANGS_S)
    assert not left.wait(0.2)
    release.set()
    assert left.wait(HANGS_S)
    thread.join()
    committer.close()


def test_an_error_of_the_disk_reaches_the_merge() -> None:
    """A failed flush is raised by put or close, and its group is not passed on."""
    committed: list[TaskRecord] = []

    def flush(group: Sequence[TaskRecord]) -> None:
        raise OSError("no space")

    committer = Committer(flush, committed.extend, 5)
    with pytest.raises(OSError, match="no space"):
        committer.put(_record(0))
    with pytest.raises(OSError, match="no space"):
        committer.close()
    assert [] == committed


def test_no_further_thread(monkeypatch: pytest.MonkeyPatch, family: Family) -> None:
    """Where the system starts no thread, for the commits or for the tasks, the command says so with exit code 4, and
    the same command completes the merge later."""
    begun, refused = threading.Thread.start, {"name": ""}

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith(refused["name"]):
            raise RuntimeError("can't start new thread")
        begun(self)

    for refused["name"] in ("dovetail-commit", "dovetail-work"):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            outcome = dovetail("merge", family.recipe_path, family.out)
        text = "error: the system starts no further thread; expected room for a few more; raise the limit on processes"
        assert (4, text) == (outcome.code, outcome.err[: len(text)])
        assert 1 == outcome.err.count("\n")
    assert 0 == dovetail("merge", family.recipe_path, family.out).code
