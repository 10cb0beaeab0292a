"""Interrupting merges, and examining what they leave."""

from __future__ import annotations

import pytest

from dovetail.engine import events
from dovetail.engine.actions.merge import merge
from dovetail.engine.errors import InterruptedMergeError
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run import commit
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.output import SafetensorsFormat
from tests.checkpoints import folder_bytes
from tests.engine.conftest import Family

OPTIONS = PlanOptions(SafetensorsFormat(20_000))


def commit_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors into chunks of 1,000 elements, and let no more than three wait to be committed."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 1000)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    monkeypatch.setattr(commit, "GROUP_BYTES", 1)
    monkeypatch.setattr(Budget, "unwritten_bytes", 4000)


class Interrupter:
    """A listener that interrupts a merge, as Ctrl-C does, after a number of commits."""

    def __init__(self, commits: int) -> None:
        self.left = commits
        self.seen: list[events.Event] = []

    def __call__(self, event: events.Event) -> None:
        self.seen.append(event)
        if isinstance(event, events.Committed):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def interrupt(family: Family, commits: int = 5, options: PlanOptions = OPTIONS) -> InterruptedMergeError:
    """Run a merge, and interrupt it."""
    with pytest.raises(InterruptedMergeError) as caught:
        merge(family.recipe_path, family.out, options, RunOptions(workers=1), Interrupter(commits))
    return caught.value


def expected_files(family: Family) -> dict[str, bytes]:
    """Merge without interruption into another folder; give the files."""
    merge(family.recipe_path, family.home / "uninterrupted", OPTIONS)
    return folder_bytes(family.home / "uninterrupted")


def journal_rows(family: Family) -> int:
    """Count the journal's entries by its size: a line of JSON, then entries of one size."""
    content = (family.staging / "dovetail_journal").read_bytes()
    line, _, body = content.partition(b"\n")
    assert line.startswith(b'{"format": "dovetail-journal"')
    return len(body) // ENTRY_BYTES


ENTRY_BYTES = 8 + (1 + 1 + 8 + 8 + 8 * 4 + 8 * 3 + 8 * 2 + 8 * 2 + 8) + 8
"""An entry with two models: number, done, differing, checksum, overflowed, kept, nonfinite, norms, checksum."""
