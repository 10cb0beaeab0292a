"""Standard output that nobody reads any more: a closed pipe, a full disk, a closed file descriptor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO
from unittest.mock import patch

import pytest

from dovetail.engine.cli.main import main
from tests.checkpoints import folder_bytes
from tests.engine.command import ABOUT_KERNELS, COMMAND, dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import expected_files
from tests.faults.machine import options
from tests.faults.paused import COMMAND as MERGE
from tests.faults.paused import HOME
from tests.pace import HANGS_S


def closed_pipe() -> TextIO:
    """Give the end for writing of a pipe that nobody reads."""
    end, begin = os.pipe()
    os.close(end)
    return os.fdopen(begin, "w")


def full_disk() -> TextIO:
    """Give a file on a disk that is full."""
    return Path("/dev/full").open("w")


Sink = Callable[[], TextIO]
every_sink = pytest.mark.parametrize(
    ("sink", "reason"), [(closed_pipe, "Broken pipe"), (full_disk, "No space left on device")]
)


def run_into(out: TextIO, err: TextIO | None, *arguments: object) -> int:
    """Run the command in this process with other standard streams; give its exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    small = patch("dovetail.engine.cli.options.LEAST_BYTES", 1)
    with _replaced(out, err), small, pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    signal.signal(signal.SIGTERM, handler)
    assert isinstance(left.value.code, int)
    return left.value.code


@contextlib.contextmanager
def _replaced(out: TextIO, err: TextIO | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(out)
        stack.enter_context(contextlib.redirect_stdout(out))
        if err is not None:
            stack.enter_context(err)
            stack.enter_context(contextlib.redirect_stderr(err))
        yield


@every_sink
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["text", "json"])
def test_a_merge_goes_on(
    family: Family, sink: Sink, reason: str, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The merge ends well, its output is whole, and the end says that nothing was shown."""
    expected = expected_files(family)
    assert 0 == run_into(sink(), None, *options(family, None, *more))
    assert expected == folder_bytes(family.out)
    note = f"note: standard output could not be written any more ({reason}): the command went on without it\n"
    assert note == capsys.readouterr().err


@every_sink
def test_a_merge_goes_on_without_any_stream(family: Family, sink: Sink, reason: str) -> None:
    """Where standard error is lost too, the merge ends well in silence."""
    assert 0 == run_into(sink(), sink(), *options(family))
    assert expected_files(family) == folder_bytes(family.out)


@every_sink
def test_the_exit_code_stays(family: Family, sink: Sink, reason: str) -> None:
    """What a command without a reader has found is still told by its exit code."""
    assert 0 == dovetail(*options(family)).code
    assert 0 == run_into(sink(), sink(), "verify", family.out)
    shard = sorted(family.out.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert 5 == run_into(sink(), sink(), "verify", family.out)
    assert 2 == run_into(sink(), sink(), "merge", family.home / "absent.yml", family.home / "new")
    assert 2 == run_into(sink(), sink(), "merge", "--no-such-option", "--json")
    assert 3 == run_into(sink(), sink(), "inspect", family.home / "absent")


def in_bash(family: Family, rest: str) -> subprocess.CompletedProcess[str]:
    """Run the merge in a shell, followed by a pipe or by redirections."""
    command = " ".join([*MERGE, "''", *options(family)])
    return subprocess.run(
        ["bash", "-c", f"{command} {rest}"], capture_output=True, text=True, cwd=HOME, timeout=HANGS_S, check=False
    )


def test_a_pager_that_is_left_early(family: Family) -> None:
    """``dovetail merge ... | head -1`` shows one line and finishes the merge."""
    done = in_bash(family, "| head -1; exit ${PIPESTATUS[0]}")
    assert (0, 1) == (done.returncode, done.stdout.count("\n")), done.stderr
    assert done.stdout.startswith("cabs: 9 tensors, reading ")
    assert "Traceback" not in done.stderr
    assert 0 == dovetail("verify", family.out).code


def test_streams_that_are_closed_from_the_start(family: Family) -> None:
    """With ``>&- 2>&-`` no file that the merge opens takes the place of a stream and is written into."""
    assert 0 == in_bash(family, "<&- >&- 2>&-").returncode
    assert 0 == dovetail("verify", family.out).code


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [(("plan", "recipe.yml"), ""), (("compare", "math", "code"), "1"), (("--help",), ""), (("--help",), "1")],
    ids=str,
)
def test_what_only_prints_ends_as_unix_tools_do(family: Family, arguments: tuple[str, ...], unbuffered: str) -> None:
    """A closed pipe ends a command that only prints by SIGPIPE, without a word, however Python buffers its output."""
    with closed_pipe() as pipe:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            cwd=family.home,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=HANGS_S,
            check=False,
        )
    said = [line for line in done.stderr.splitlines() if line not in ABOUT_KERNELS]
    assert (-signal.SIGPIPE, []) == (done.returncode, said)


@pytest.mark.parametrize("command", ["plan", "inspect", "methods", "--version"])
def test_what_only_prints_tells_of_a_full_disk(
    family: Family, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a full disk it ends with exit code 4 and a line that says why."""
    more = {"plan": [family.recipe_path], "inspect": [family.math]}.get(command, [])
    assert 4 == run_into(full_disk(), None, command, *more)
    assert (
        "error: standard output cannot be written: No space left on device; expected room for what the command prints; "
        "send it elsewhere\n"
    ) == capsys.readouterr().err


def test_a_reader_that_reads_all(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said of standard output where it was not lost."""
    end, begin = os.pipe()
    assert 0 == run_into(os.fdopen(begin, "w"), None, *options(family))
    with os.fdopen(end) as reader:
        assert reader.read().startswith("cabs: 9 tensors, reading ")
    assert "" == capsys.readouterr().err
