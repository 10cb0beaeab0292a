"""Processes that are stopped or killed during a merge, and processes that write the same output."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from dovetail.engine import events
from dovetail.engine.actions.merge import merge
from dovetail.engine.errors import OutputError
from tests.checkpoints import folder_bytes
from tests.engine.command import COMMAND, Outcome, dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import (
    OPTIONS,
    commit_often,
    expected_files,
    journal_rows,
)
from tests.pace import HANGS_S


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut merges into many tasks and commit them in small groups."""
    commit_often(monkeypatch)


def test_one_process_at_a_time(family: Family) -> None:
    """While one process writes an output, another is refused and disturbs nothing."""
    family.staging.mkdir()
    with (family.staging / "dovetail_lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = dovetail("merge", family.recipe_path, family.out)
        assert (
            5,
            f"error: another process is writing into {family.staging}; expected one process for one output; wait for "
            "it to end, or choose another output folder\n",
        ) == (outcome.code, outcome.err)
        assert ["dovetail_lock"] == os.listdir(family.staging)
    assert 0 == dovetail("merge", family.recipe_path, family.out).code


def test_two_merges_into_one_output_in_one_process(family: Family) -> None:
    """Of two merges into one output in the same process, the second is refused too."""

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Started):
            with pytest.raises(OutputError, match="another process is writing into"):
                merge(family.recipe_path, family.out, OPTIONS)

    merge(family.recipe_path, family.out, OPTIONS, listen=listen)
    assert expected_files(family) == folder_bytes(family.out)


SLOW = """
import sys, time
from dovetail.engine.cli import main, options
from dovetail.engine.planning import grid
from dovetail.engine.run import budget, commit, execution
options.LEAST_BYTES = 1
grid.CHUNK_STEP, grid.TASK_BYTES, commit.GROUP_BYTES, budget.Budget.unwritten_bytes = 1000, 1, 1, 4000
report = execution.Execution._report_progress
def slowly(self, *given):
    report(self, *given)
    if self._durable_tasks:
        time.sleep(0.2)  # a request to stop is answered when this returns
execution.Execution._report_progress = slowly
main.main(sys.argv[1:])
"""
"""The command, cut into small tasks, that goes on slowly once some of them are done."""


def start_slowly(family: Family) -> subprocess.Popen[str]:
    """Start a merge in another process and wait until a part of it is done."""
    arguments = ["merge", family.recipe_path, family.out, "--shard-size", "20000", "--json", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"committed"' in line:
            return process
    raise AssertionError("the merge ended by itself")


def test_a_killed_process(family: Family) -> None:
    """After SIGKILL there is no OUT; the same command continues what was done, and gives the same files."""
    process = start_slowly(family)
    process.kill()
    process.communicate(timeout=HANGS_S)
    assert -signal.SIGKILL == process.returncode
    assert not family.out.exists()
    assert journal_rows(family) >= 1
    outcome = dovetail("merge", family.recipe_path, family.out, "--shard-size", "20000", "--json")
    assert 0 == outcome.code
    assert outcome.events[0]["text"].startswith("Continuing an unfinished merge: ")
    assert expected_files(family) == folder_bytes(family.out)


def test_a_process_asked_to_stop(family: Family) -> None:
    """After SIGTERM the exit code is 130, and text and JSON say how to continue; ``tests/faults`` presses Ctrl-C."""
    process = start_slowly(family)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=HANGS_S)
    assert 130 == process.returncode
    assert err.startswith("error: merge interrupted; ")
    assert err.endswith(f"of its chunks are safe in {family.staging}; run the same command again to continue\n")
    *_, last = Outcome(0, out, err).events
    assert {"event": "error", "text": err[len("error: ") : -1], "exit_code": 130} == last
    merge(family.recipe_path, family.out, OPTIONS)
    assert expected_files(family) == folder_bytes(family.out)


def test_a_process_stopped_before_it_began(family: Family) -> None:
    """Ctrl-C while the command waits for a recipe has exit code 130 and a message, too."""
    pipe = family.home / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*COMMAND, "plan", str(pipe), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with pipe.open("w"):  # returns as soon as the command has opened the other end
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANGS_S)
    assert (130, "error: interrupted; run the same command again to continue\n") == (process.returncode, err)
    assert [{"event": "error", "text": err[len("error: ") : -1], "exit_code": 130}] == Outcome(0, out, err).events
