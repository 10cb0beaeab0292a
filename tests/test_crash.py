"""A merge killed at any instant continues, and gives the same bytes as one that was never interrupted."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.crash import CrashCase, cases, kill_until_done
from tests.pace import HANGS_S

KILLS = 5
"""For each case, spread over the time that it takes; together 50. ``bench/crash.py`` makes thousands, of every case."""

ONCE = ("cabs-3", "cabs-minimize-1", "cabs-magnitude-1", "task_arithmetic-3")
"""Cases that are left to the bench: each method is killed here with one worker or with several, not with both."""


@pytest.fixture(scope="module")
def killer() -> Iterator[ProcessPoolExecutor]:
    """Start one process that kills, apart from this one, whose threads no forked process should have."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("case", [each for each in cases() if each.name not in ONCE], ids=lambda case: case.name)
def test_killed_merges_give_the_same_bytes(tmp_path: Path, case: CrashCase, killer: ProcessPoolExecutor) -> None:
    """However often it is killed, whatever was not journalled is lost, and the files are those expected."""
    begun = killer.submit(kill_until_done, tmp_path, case, KILLS, seed=len(case.name))
    killed, continued = begun.result(HANGS_S)
    assert KILLS == killed
    assert continued > 0
