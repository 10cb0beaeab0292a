"""What the threads of a run share: theirs alone, and begun anew in forked processes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from dovetail.io.files.per_run import PerRun


def test_each_thread_finds_its_runs_object() -> None:
    """Inside the block it is the run's, also if that counts as false; outside, and in other threads, the common one."""
    shared: PerRun[list[int]] = PerRun("numbers", list)
    outside, empty = shared.current(), list[int]()
    with shared.using(empty), ThreadPoolExecutor(1) as pool:
        assert shared.current() is empty
        assert pool.submit(shared.current).result() is outside
    assert shared.current() is outside


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 warns of forks beside threads
def test_a_forked_process_begins_anew() -> None:
    """Neither the run's object nor the common one is used in a child: their locks may be held for ever there."""
    shared: PerRun[list[int]] = PerRun("numbers", list)
    outside, mine = shared.current(), [1]
    with shared.using(mine):
        child = os.fork()
        if child == 0:
            found = shared.current()
            os._exit(0 if found is not mine and found is not outside else 1)
        assert 0 == os.waitpid(child, 0)[1]
        assert shared.current() is mine
