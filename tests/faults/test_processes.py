"""Processes that are asked to stop, die, write the same output, or lose the reader of their events."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from dovetail.engine import events
from dovetail.engine.actions.merge import merge
from dovetail.engine.errors import WorkerLostError
from dovetail.engine.run.prepare import RunOptions
from tests.checkpoints import folder_bytes
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import OPTIONS, expected_files, journal_rows
from tests.faults.machine import Paused, again, finish, options
from tests.pace import HANGS_S


@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT,) * 3], ids=str)
def test_a_merge_that_is_told_to_stop(family: Family, numbers: tuple[signal.Signals, ...]) -> None:
    """After one request or several, the exit code is 130, a text says how to continue, and the merge continues."""
    with Paused(family) as merge:
        for number in numbers:
            merge.process.send_signal(number)
            time.sleep(0.002)
        outcome = merge.go_on()
    # A signal that comes after the text ends the process by itself: a shell calls both 130.
    assert outcome.code in (130, -signal.SIGINT)
    assert outcome.err.endswith("run the same command again to continue\n"), outcome.err
    assert "Traceback" not in outcome.err
    finish(family)


def test_a_merge_told_to_stop_as_it_ends(family: Family) -> None:
    """When everything has been computed, a request to stop is ignored, and the output is published."""
    with Paused(family, "dovetail.engine.actions.carry_out:publish") as merge:
        merge.process.send_signal(signal.SIGINT)
        merge.process.send_signal(signal.SIGTERM)
        outcome = merge.go_on()
    assert (0, "") == (outcome.code, outcome.err)
    assert expected_files(family) == folder_bytes(family.out)


def test_a_lost_terminal(family: Family) -> None:
    """Closing the terminal ends the process at once, as a kill does, and finished chunks are kept."""
    with Paused(family) as merge:
        merge.process.send_signal(signal.SIGHUP)
        assert -signal.SIGHUP == merge.go_on().code
    finish(family)


def test_a_listener_that_goes_away(family: Family) -> None:
    """When the reader of the events goes away in the middle, as ``head`` does, the merge goes on to its end."""
    expected = expected_files(family)
    with Paused(family, more=("--json",)) as merge:
        merge.process.stdout.close()
        merge.process.stdin.close()
        outcome = merge.go_on()
    assert (0, "note: standard output could not ") == (outcome.code, outcome.err[:32])
    assert expected == folder_bytes(family.out)


def test_a_worker_process_that_dies(family: Family) -> None:
    """The error says so, with exit code 5; finished chunks are kept, and any other executor continues."""

    def kill(event: events.Event) -> None:
        if isinstance(event, events.Committed):
            for child in multiprocessing.active_children():
                with contextlib.suppress(ProcessLookupError):  # killed at an earlier commit, and gone since
                    os.kill(child.pid or 0, signal.SIGKILL)

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool, pytest.raises(WorkerLostError) as caught:
        merge(family.recipe_path, family.out, OPTIONS, RunOptions(workers=2, executor=pool), kill)
    assert 5 == caught.value.exit_code
    assert str(caught.value).startswith("a worker process has died (A ")
    assert str(caught.value).endswith("and run the same command again to continue")
    assert not family.out.exists()
    finish(family)


def test_two_processes_on_one_output(family: Family) -> None:
    """The second process is refused, with exit code 5, and the first is not disturbed."""
    with Paused(family) as first:
        second = again(family)
        assert 5 == second.code
        assert f"error: another process is writing into {family.staging}; expected one process for " in second.err
        assert 0 == first.go_on().code
    assert expected_files(family) == folder_bytes(family.out)


def test_a_lock_of_a_dead_process(family: Family) -> None:
    """The lock file of a killed process does not hold up the next one."""
    with Paused(family) as merge:
        merge.process.kill()
    assert (family.staging / "dovetail_lock").exists()
    finish(family)


def test_a_forked_child_does_not_keep_the_lock(family: Family) -> None:
    """A process that the merge started does not inherit the lock, even if it outlives the merge."""
    child = 0

    def start(event: events.Event) -> None:
        nonlocal child
        if isinstance(event, events.Started):
            child = os.posix_spawn("/bin/sleep", ["sleep", str(HANGS_S)], os.environ)
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        merge(family.recipe_path, family.out, OPTIONS, listen=start)
    try:
        assert 0 == again(family).code
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    "place",
    [
        "dovetail.engine.actions.completion:write_side_files",
        "dovetail.engine.actions.completion:write_manifest",
        "dovetail.engine.actions.carry_out:publish",
    ],
)
def test_killed_before_it_is_published(family: Family, place: str) -> None:
    """Killed at the side files, the manifest or the renaming: there is no OUT, and nothing is computed again."""
    with Paused(family, place) as merge:
        merge.process.kill()
    assert not family.out.exists()
    assert 0 == finish(family).events[-1]["written_bytes"]


def test_killed_between_renaming_and_tidying(family: Family) -> None:
    """OUT is whole, but still has the journal; the same command tidies up and computes nothing."""
    expected = expected_files(family)
    with Paused(family, "dovetail.engine.output.staging:_tidy") as merge:
        merge.process.kill()
    found = folder_bytes(family.out)
    assert {"dovetail_journal", "dovetail_lock"} == found.keys() - expected.keys()
    assert expected == {name: found[name] for name in expected}
    outcome = dovetail("verify", family.out)
    assert 0 == outcome.code
    assert "not in the manifest, not checked: dovetail_journal\n" in outcome.out
    outcome = again(family)
    assert (0, 0) == (outcome.code, outcome.events[-1]["written_bytes"])
    assert expected == folder_bytes(family.out)
    assert not family.staging.exists()


@pytest.mark.parametrize(
    "place", ["pathlib:Path.rename:2", "pathlib:Path.rename:3", "dovetail.engine.output.staging:_tidy"]
)
def test_killed_while_an_output_is_replaced(family: Family, place: str) -> None:
    """At every instant the old or the new output is whole; the same command ends with only the new one."""
    expected = expected_files(family)
    family.out.mkdir()
    (family.out / "old").write_text("old")
    old = family.home / ".out.dovetail-old"
    with Paused(family, place, more=("--overwrite",)) as merge:
        merge.process.kill()
    whole = [path for path in (family.out, old) if (path / "old").exists()]
    new = [path for path in (family.out, family.staging) if (path / "dovetail_manifest.json").exists()]
    assert (1, 1) == (len(whole), len(new))
    outcome = dovetail(*options(family, None, "--json", "--overwrite"))
    assert (0, 0) == (outcome.code, outcome.events[-1]["written_bytes"])
    assert expected == folder_bytes(family.out)
    assert not old.exists()


def test_an_untidied_output_of_another_merge(family: Family) -> None:
    """Only the same merge tidies up an output; any other finds a folder that is not empty."""
    with Paused(family, "dovetail.engine.output.staging:_tidy") as merge:
        merge.process.kill()
    before = folder_bytes(family.out)
    family.recipe(parameters={"n": 5, "m": 16, "weight": 0.8})
    outcome = again(family)
    assert 5 == outcome.code
    assert (
        f"output folder {family.out} is not empty and holds another output: parameters.n of the recipe" in outcome.err
    )
    assert before == folder_bytes(family.out)


def test_an_unfinished_output_that_rots(family: Family) -> None:
    """Bytes that a disk changes between two runs are not noticed by the merge, but by verification."""
    with Paused(family, "commit:20") as merge:
        merge.process.kill()
    assert journal_rows(family) >= 20
    (shard, *_) = sorted(family.staging.glob("*.safetensors"))
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    assert 0 == again(family).code
    outcome = dovetail("verify", family.out)
    assert 5 == outcome.code
    assert f"in {shard.name} is damaged between elements" in outcome.out


def test_a_working_folder_that_is_removed(family: Family) -> None:
    """If the working folder is removed during the merge, that is an error, and the next run begins anew."""
    with Paused(family) as merge:
        for path in family.staging.iterdir():
            path.unlink()
        family.staging.rmdir()
        outcome = merge.go_on()
    assert 5 == outcome.code, outcome
    assert outcome.err.startswith("error: No such file or directory at "), outcome.err
    assert not family.out.exists()
    assert 0 == dovetail(*options(family)).code
    assert expected_files(family) == folder_bytes(family.out)
