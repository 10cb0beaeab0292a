"""Interrupted merges: nothing that looks finished is left, and the same command gives the same bytes in the end."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from dovetail.engine import commit, events, grid, merging
from dovetail.engine.errors import InterruptedMergeError, OutputError
from dovetail.engine.journal import Journal
from dovetail.engine.memory import Budget
from dovetail.engine.merging import RunOptions, merge
from dovetail.engine.planned import PlanOptions
from dovetail.io.sink import SafetensorsSink
from tests.checkpoints import folder_bytes
from tests.engine.command import COMMAND, Outcome, dovetail
from tests.engine.conftest import Family

OPTIONS = PlanOptions(shard_size_bytes=20_000)


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors into chunks of 1,000 elements, and let no more than three wait to be committed."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 1000)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    monkeypatch.setattr(commit, "GROUP_BYTES", 1)
    monkeypatch.setattr(Budget, "unwritten_bytes", 4000)


class Interrupter:
    """Listens to a merge and interrupts it, as Ctrl-C does, after a number of commits."""

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
    """Run a merge that is interrupted."""
    with pytest.raises(InterruptedMergeError) as caught:
        merge(family.recipe_path, family.out, options, RunOptions(workers=1), Interrupter(commits))
    return caught.value


def expected_files(family: Family) -> dict[str, bytes]:
    """Merge without interruption, elsewhere."""
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


def test_an_interrupted_merge_continues(family: Family) -> None:
    """Ctrl-C leaves no OUT and says how to go on; the same call does the rest alone and gives the same files."""
    error = interrupt(family)
    assert not family.out.exists()
    rows = journal_rows(family)
    assert rows >= 5
    total = sum(-(-size // 1000) for size in (6208, 6208, 4096, 4096, 8320, 8320, 64, 64, 64))
    assert 130 == error.exit_code
    assert (
        f"merge interrupted; {rows / total:.1%} of its chunks are safe in {family.staging}; run the same command "
        "again to continue"
    ) == str(error)
    seen: list[events.Event] = []
    manifest = merge(family.recipe_path, family.out, OPTIONS, RunOptions(workers=2), seen.append)
    assert expected_files(family) == folder_bytes(family.out)
    assert not family.staging.exists()
    (notice,) = (event.text for event in seen if isinstance(event, events.Notice))
    assert f"Continuing an unfinished merge: {rows / total:.1%} of its chunks are done." == notice
    (done,) = (event for event in seen if isinstance(event, events.Done))
    assert 0 < done.written_bytes < 74_880
    assert manifest["totals"] == done.summary


@pytest.mark.parametrize("commits", [1, 2, 20, 40])
def test_a_merge_interrupted_again_and_again(family: Family, commits: int) -> None:
    """However often a merge is interrupted, it gets on and ends with the same files."""
    for _ in range(3):
        try:
            merge(family.recipe_path, family.out, OPTIONS, RunOptions(workers=2), Interrupter(commits))
        except InterruptedMergeError:
            assert not family.out.exists()
            continue
        break
    if not family.out.exists():
        merge(family.recipe_path, family.out, OPTIONS)
    assert expected_files(family) == folder_bytes(family.out)


@pytest.mark.parametrize("parameters", [{"balanced": False}, {"balanced": False, "overlap": "minimize"}], ids=str)
def test_a_merge_with_reduce_passes_continues(family: Family, parameters: dict[str, Any]) -> None:
    """Reduce passes are made again over all chunks of a tensor of which some are done."""
    family.recipe(parameters={"n": 4, "m": 16, "weight": 0.8, **parameters})
    interrupt(family)
    merge(family.recipe_path, family.out, OPTIONS)
    assert expected_files(family) == folder_bytes(family.out)


def test_an_interruption_before_anything_is_done(family: Family) -> None:
    """Stopped as it starts, a merge has nothing to continue and nothing to complain of."""

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Progress):
            raise KeyboardInterrupt

    with pytest.raises(InterruptedMergeError):
        merge(family.recipe_path, family.out, OPTIONS, listen=stop)
    merge(family.recipe_path, family.out, OPTIONS)
    assert expected_files(family) == folder_bytes(family.out)


def test_an_interruption_when_all_is_done(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while the small files are written, the same call writes them and computes nothing again."""
    with monkeypatch.context() as patched:
        patched.setattr(merging, "write_side_files", _raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            merge(family.recipe_path, family.out, OPTIONS)
    assert not family.out.exists()
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, OPTIONS, listen=seen.append)
    assert 0 == next(event.written_bytes for event in seen if isinstance(event, events.Done))
    assert expected_files(family) == folder_bytes(family.out)


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda content: content[:-1], -1),
        (lambda content: content[: -ENTRY_BYTES - 50], -2),
        (lambda content: content + b"\0" * 1000, 0),
        (lambda content: content[:-ENTRY_BYTES] + bytes([content[-ENTRY_BYTES] ^ 1]) + content[1 - ENTRY_BYTES :], -1),
        (lambda content: content[: content.index(b"\n") + 1], None),
        (lambda content: content[:20], None),
        (lambda content: b"", None),
    ],
    ids=["last byte torn", "two torn", "zeros behind", "bit flipped", "no entries", "torn in the line", "empty"],
)
def test_a_damaged_journal(family: Family, damage: Callable[[bytes], bytes], left: int | None) -> None:
    """Sound entries before the damage count, what comes after is computed again, and the files are the same."""
    interrupt(family, 6)
    rows = journal_rows(family)
    path = family.staging / "dovetail_journal"
    path.write_bytes(damage(path.read_bytes()))
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, OPTIONS, listen=seen.append)
    (begun,) = (event for event in seen if isinstance(event, events.Started))
    notices = [event.text for event in seen if isinstance(event, events.Notice)]
    if left is None:
        assert [] == notices
    else:
        assert [f"Continuing an unfinished merge: {(rows + left) / begun.tasks:.1%} of its chunks are done."] == notices
    assert expected_files(family) == folder_bytes(family.out)


def _other_recipe(family: Family) -> None:
    family.recipe(parameters={"n": 5, "m": 16, "weight": 0.8})


def _other_input(family: Family) -> None:
    os.utime(family.math / "model.safetensors", ns=(10**18, 10**18))


def _other_format(family: Family) -> None:
    path = family.staging / "dovetail_journal"
    path.write_bytes(b"{}\n" + path.read_bytes().partition(b"\n")[2])


def _other_version(family: Family) -> None:
    path = family.staging / "dovetail_journal"
    line, newline, body = path.read_bytes().partition(b"\n")
    assert b'"maths_version": 1' in line
    line = line.replace(b'"maths_version": 1', b'"maths_version": 0').replace(b'"plan_hash": "', b'"plan_hash": "0')
    path.write_bytes(line + newline + body)


def _nothing(family: Family) -> None:
    """Change nothing but what the call says."""


@pytest.mark.parametrize(
    ("change", "arguments", "reason"),
    [
        (_other_recipe, (), "the recipe is not the same"),
        (_nothing, ("--dtype", "float32"), "the options are not the same"),
        (_nothing, ("--seed", "1"), "the options are not the same"),
        (_nothing, ("--nonfinite", "keep"), "the options are not the same"),
        (_nothing, ("--shard-size", "30000"), "the options are not the same"),
        (_other_input, (), "the input {math}/model.safetensors has changed since"),
        (_other_format, (), "the journal is damaged"),
        (_other_version, (), "it was begun by another version of Dovetail, whose results differ in bits"),
    ],
)
def test_another_merge_does_not_continue_it(
    family: Family, change: Callable[[Family], None], arguments: tuple[str, ...], reason: str
) -> None:
    """The error says what changed, nothing done is lost, and --restart begins anew."""
    interrupt(family)
    change(family)
    before = folder_bytes(family.staging)
    command = ("merge", family.recipe_path, family.out, "--shard-size", "20000", *arguments)
    outcome = dovetail(*command)
    assert (
        f"error: unfinished output {family.staging} cannot be continued: {reason.format(math=family.math)}; expected "
        "the same recipe, options and inputs as before; restore them, or pass --restart to begin anew\n"
    ) == outcome.err
    assert (5, "") == (outcome.code, outcome.out)
    assert before == folder_bytes(family.staging)
    assert 0 == dovetail(*command, "--restart").code
    assert 0 == dovetail("verify", family.out).code


def test_a_lost_shard(family: Family) -> None:
    """Where a file of the unfinished output is gone, the error says so and that --restart helps."""
    interrupt(family)
    lost = sorted(family.staging.glob("*.safetensors"))[-1]
    lost.unlink()
    outcome = dovetail("merge", family.recipe_path, family.out, "--shard-size", "20000")
    assert outcome.err.endswith(
        f"\nerror: unfinished output {family.staging} cannot be continued: No such file or directory ({lost}); "
        "expected the output files as the interrupted merge left them; pass --restart to begin anew\n"
    )
    assert 5 == outcome.code
    assert 0 == dovetail("merge", family.recipe_path, family.out, "--shard-size", "20000", "--restart").code


def test_a_recipe_written_differently_continues(family: Family) -> None:
    """What counts is what the recipe says: comments and the order of keys are free."""
    interrupt(family)
    lines = family.recipe_path.read_text().splitlines()
    reordered = [*(line for line in lines if line.startswith("dtype")), "# a comment"]
    reordered += [line for line in lines if not line.startswith("dtype")]
    family.recipe_path.write_text("\n".join(reordered) + "\n")
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, OPTIONS, listen=seen.append)
    assert any(isinstance(event, events.Notice) and "Continuing" in event.text for event in seen)
    assert family.recipe_path.read_bytes() == (family.out / "dovetail_recipe.yml").read_bytes()


@pytest.mark.parametrize(("target", "number", "code"), [("sink", errno.EIO, 5), ("journal", errno.ENOSPC, 4)])
def test_a_disk_that_fails(
    family: Family, monkeypatch: pytest.MonkeyPatch, target: str, number: int, code: int
) -> None:
    """What was not made durable is not counted as done, and the same command ends with the same files."""
    kind: Any = SafetensorsSink if target == "sink" else Journal
    method = "commit" if target == "sink" else "append"
    original, left = getattr(kind, method), [3]

    def fail(self: Any, argument: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        original(self, argument)

    command = ("merge", family.recipe_path, family.out, "--shard-size", "20000", "--json")
    with monkeypatch.context() as patched:
        patched.setattr(kind, method, fail)
        assert code == dovetail(*command).code
    assert not family.out.exists()
    assert 3 <= journal_rows(family) <= 9
    outcome = dovetail(*command)
    assert 0 == outcome.code
    assert outcome.events[0]["text"].startswith("Continuing an unfinished merge: ")
    assert expected_files(family) == folder_bytes(family.out)


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
    """The same holds for two merges of one process."""

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Started):
            with pytest.raises(OutputError, match="another process is writing into"):
                merge(family.recipe_path, family.out, OPTIONS)

    merge(family.recipe_path, family.out, OPTIONS, listen=listen)
    assert expected_files(family) == folder_bytes(family.out)


SLOW = """
import sys, time
from dovetail.engine import cli, commit, execution, grid, memory
grid.CHUNK_STEP, grid.TASK_BYTES, commit.GROUP_BYTES, memory.Budget.unwritten_bytes = 1000, 1, 1, 4000
report = execution.Execution._report_progress
def slowly(self, started):
    report(self, started)
    time.sleep(0.05)
execution.Execution._report_progress = slowly
cli.main(sys.argv[1:])
"""
"""The command, cut into small tasks and slowed down so that there is time to stop it."""


def start_slowly(family: Family) -> subprocess.Popen[str]:
    """Start a merge in a process of its own and wait until some of it is done."""
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
    """SIGKILL leaves no OUT; the same command takes up what was done and gives the same files."""
    process = start_slowly(family)
    process.kill()
    process.communicate(timeout=60)
    assert -signal.SIGKILL == process.returncode
    assert not family.out.exists()
    assert journal_rows(family) >= 1
    outcome = dovetail("merge", family.recipe_path, family.out, "--shard-size", "20000", "--json")
    assert 0 == outcome.code
    assert outcome.events[0]["text"].startswith("Continuing an unfinished merge: ")
    assert expected_files(family) == folder_bytes(family.out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_asked_to_stop(family: Family, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end with exit code 130 and say how to go on, to people and to programs."""
    process = start_slowly(family)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert 130 == process.returncode
    assert err.startswith("error: merge interrupted; ")
    assert err.endswith(f"of its chunks are safe in {family.staging}; run the same command again to continue\n")
    *_, last = Outcome(0, out, err).events
    assert {"event": "error", "text": err[len("error: ") : -1], "exit_code": 130} == last
    merge(family.recipe_path, family.out, OPTIONS)
    assert expected_files(family) == folder_bytes(family.out)


def test_a_process_stopped_before_it_began(family: Family) -> None:
    """Ctrl-C while a recipe is still being waited for has exit code 130 too, and a text."""
    pipe = family.home / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*COMMAND, "plan", str(pipe), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with pipe.open("w"):  # returns as soon as the command has opened the other end
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (130, "error: interrupted; run the same command again to continue\n") == (process.returncode, err)
    assert [{"event": "error", "text": err[len("error: ") : -1], "exit_code": 130}] == Outcome(0, out, err).events
