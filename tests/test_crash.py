"""A merge killed at any instant continues, and gives the same bytes as one that was never interrupted."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.crash import CrashCase, cases, kill_until_done
from tests.pace import HANGS_S

KILLS = 6
"""For each case, spread over the time that it takes; together 84. ``bench/crash.py`` makes thousands."""


@pytest.fixture(scope="module")
def killer() -> Iterator[ProcessPoolExecutor]:
    """Start one process that kills, apart from this one, whose threads no forked process should have."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_killed_merges_give_the_same_bytes(tmp_path: Path, case: CrashCase, killer: ProcessPoolExecutor) -> None:
    """However often it is killed, whatever was not journalled is lost, and the files are those expected."""
    begun = killer.submit(kill_until_done, tmp_path, case, KILLS, seed=len(case.name))
    killed, continued = begun.result(HANGS_S)
    assert KILLS == killed
    assert continued > 0
