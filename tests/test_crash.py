"""A merge killed at any instant continues, and gives the same bytes as one that was never interrupted."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import cast

import pytest

from tests.crash import CrashCase, cases, kill_until_done
from tests.pace import HANGS_S

KILLS = 10
"""For each case; together 140. ``bench/crash.py`` makes thousands."""


def _run(folder: Path, case: CrashCase, result: multiprocessing.SimpleQueue[object]) -> None:
    result.put(kill_until_done(folder, case, KILLS, seed=len(case.name)))


@pytest.mark.slow
@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_killed_merges_give_the_same_bytes(tmp_path: Path, case: CrashCase) -> None:
    """However often it is killed, whatever was not journalled is lost, and the files are those expected."""
    context = multiprocessing.get_context("spawn")
    result: multiprocessing.SimpleQueue[object] = context.SimpleQueue()
    process = context.Process(target=_run, args=(tmp_path, case, result))
    process.start()
    process.join(HANGS_S)
    assert not result.empty(), "the process that kills died itself"
    killed, continued = cast("tuple[int, int]", result.get())
    assert KILLS == killed
    assert continued > 0
