"""Asked to stop at any instant: one line, exit code 130, and the same command continues; the same holds from Python."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dovetail.engine import RunOptions, merge
from dovetail.engine.cli.main import main
from dovetail.engine.cli.stopping import answer_interrupts
from tests.checkpoints import folder_bytes, llama_tensors, write_checkpoint
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import OPTIONS, expected_files
from tests.faults.interrupted import COMMAND, forked
from tests.faults.machine import options
from tests.faults.paused import HOME, small_tasks
from tests.pace import HANGS_S

SHARES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99, 1.0)
"""Instants of a run, the first and the last among them."""

LINE = re.compile(r"error: (merge |)interrupted; .*run the same command again to continue\n")


def _is_one_line(code: int | None, err: str, out: Path) -> None:
    """Check that a command either said in one line that it was interrupted, or has completed its output."""
    assert (code, bool(LINE.fullmatch(err))) == (130, True) or (code, err, out.exists()) == (0, "", True), (code, err)


@pytest.fixture(scope="module")
def cold_events(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Count the events of a whole command in a new process, its start included."""
    family = Family(tmp_path_factory.mktemp("cold"))
    _write(family)
    done = _cold(family, 0, 0)
    assert 0 == done.returncode, done.stderr
    return int(done.stdout.splitlines()[-1])


def _write(family: Family) -> None:
    base = llama_tensors(0)
    write_checkpoint(family.base, base)
    write_checkpoint(family.math, llama_tensors(1, base))
    write_checkpoint(family.code, llama_tensors(2, base))
    family.recipe()


def _cold(family: Family, number: int, at: int) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, str(number), str(at), "merge", str(family.recipe_path), str(family.out)]
    return subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=HANGS_S, check=False)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_new_process(tmp_path: Path, cold_events: int, share: float) -> None:
    """While it imports, plans, works or ends, a command that is told to stop says one line and ends with 130."""
    family = Family(tmp_path)
    _write(family)
    done = _cold(family, signal.SIGINT, max(1, round(share * cold_events)))
    _is_one_line(done.returncode, done.stderr, family.out)


@pytest.mark.parametrize(
    ("numbers", "shares"),
    [((signal.SIGINT,), SHARES[::2]), ((signal.SIGTERM, signal.SIGINT), SHARES[1::2])],
    ids=["one", "two"],
)
def test_a_command_at_any_call(family: Family, numbers: tuple[int, ...], shares: tuple[float, ...]) -> None:
    """Whatever it does, one request or two at once have it say one line, and the same command continues."""
    expected = expected_files(family)

    def command(begin: Callable[[], None]) -> int:
        small_tasks()
        answer_interrupts([])  # as the command does when it starts
        begin()
        try:
            main([*options(family), "--quiet"])
        except SystemExit as left:
            return int(left.code or 0)

    whole = forked(command)
    assert (0, "") == (whole.code, whole.err)
    calls = whole.calls
    shutil.rmtree(family.out)
    for share in shares:
        ended = forked(command, numbers, max(1, round(share * calls)))
        _is_one_line(ended.code, ended.err, family.out)
    assert 0 == dovetail(*options(family)).code
    assert expected == folder_bytes(family.out)


def test_from_python_at_any_call(family: Family) -> None:
    """`merge` raises `KeyboardInterrupt` or returns, leaves the handlers as they were, loses no exception, and the same
    call continues."""
    expected = expected_files(family)

    def call(begin: Callable[[], None]) -> int:
        try:
            begin()
            merge(family.recipe_path, family.out, OPTIONS, RunOptions(workers=2))
            sys.settrace(None)  # what follows is no part of the merge
            code = 0
        except KeyboardInterrupt:
            code = 130
        assert (signal.default_int_handler, signal.SIG_DFL) == (
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
        )
        return code

    whole = forked(call)
    assert (0, "") == (whole.code, whole.err)
    calls = whole.calls
    shutil.rmtree(family.out)
    codes = []
    for share in SHARES[::2]:
        ended = forked(call, (signal.SIGINT,), max(1, round(share * calls)))
        assert "" == ended.err
        codes.append(ended.code)
    assert {130} <= set(codes) <= {0, 130}
    merge(family.recipe_path, family.out, OPTIONS)
    assert expected == folder_bytes(family.out)
