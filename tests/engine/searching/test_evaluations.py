"""Evaluators: what counts as a result, what as a failure, and that nothing of a command outlives it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dovetail.engine.searching import command
from dovetail.engine.searching.command import CommandEvaluator, command_line
from dovetail.engine.searching.evaluations import Evaluation, read_printed, read_result

AS_JSON = "expected a number, or losses by task as JSON"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", 0.5),
        ("-3\n", -3.0),
        ('{"a": 1, "b": 2.5}', {"a": 1.0, "b": 2.5}),
        ('{\n "a": 1\n}\n', {"a": 1.0}),
        ("loading\n100%\n0.25\n\n", 0.25),
        ('warning\n{"a": 1}', {"a": 1.0}),
    ],
)
def test_what_is_understood(text: str, expected: Any) -> None:
    """JSON is read, also as the last line after others."""
    assert Evaluation(expected) == read_printed(text)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", f"it printed nothing; {AS_JSON}"),
        (" \n\n", f"it printed nothing; {AS_JSON}"),
        ("accuracy: 0.5", f"it printed 'accuracy: 0.5'; {AS_JSON}"),
        ("NaN", "the score is NaN; expected a finite number"),
        ("Infinity", "the score is infinite; expected a finite number"),
        ("1e999", "the score is infinite; expected a finite number"),
        ("true", "it gave true; expected a number, or losses by task"),
        ("null", "it gave null; expected a number, or losses by task"),
        ('"0.5"', "it gave '0.5'; expected a number, or losses by task"),
        ("[0.5]", "it gave '[0.5]'; expected a number, or losses by task"),
        ("{}", "it gave losses of 0 tasks; expected 1 to 10,000"),
        ('{"a": NaN}', "the loss of task 'a' is NaN; expected a finite number"),
        ('{"a": "x"}', "the loss of task 'a' is 'x'; expected a finite number"),
        ("9" * 400, "it gave '" + "9" * 250),
        ("[" * 100_000, "it printed '" + "[" * 100),
    ],
)
def test_what_is_nonsense(text: str, failure: str) -> None:
    """Everything else is a failure, with what was found and what was expected."""
    found = read_printed(text)
    assert found.failed
    assert failure[:60] == found.failure[:60]


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), 0.5, torch.tensor([0.5])])
def test_results_of_functions(value: Any) -> None:
    """Functions may give the numbers of their libraries."""
    assert Evaluation(0.5) == read_result(value)


@pytest.mark.parametrize("value", [np.zeros(2), torch.zeros(2), None, True, "0.5", b"1", [1]])
def test_results_that_are_none(value: Any) -> None:
    """Arrays, texts and truth values are no results."""
    assert read_result(value).failed


MISBEHAVING = {
    "exit 3": "it ended with exit code 3",
    "echo first >&2; echo '  the last line  ' >&2; echo >&2; exit 1": "it ended with exit code 1: the last line",
    "kill -9 $$": "it was ended by SIGKILL",
    "kill -11 $$": "it was ended by SIGSEGV",
    "true": f"it printed nothing; {AS_JSON}",
    "echo no idea; echo why >&2": f"it printed 'no idea'; {AS_JSON}: why",
    "echo NaN": "the score is NaN; expected a finite number",
    "no-such-command": "it ended with exit code 127: /bin/sh: 1: no-such-command: not found",
    "printf '\\377\\376'": f"it printed '\ufffd\ufffd'; {AS_JSON}",
    "sleep 100": "it gave no result within 0.3 s",
    "echo 0.5; echo almost >&2; sleep 100": "it gave no result within 0.3 s: almost",
    "trap '' TERM; sleep 100": "it gave no result within 0.3 s",
    "yes": "it gave no result within 0.3 s",
}


@pytest.mark.parametrize(("line", "failure"), MISBEHAVING.items())
def test_misbehaviour(line: str, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that fail, hang, or print nonsense are failures that are named, with their last words."""
    monkeypatch.setattr(command, "GRACE_S", 0.1)
    timeout_s = 0.3 if "0.3 s" in failure else 60
    found = CommandEvaluator(f"{line} # {{}}", timeout_s)(tmp_path)
    assert (None, failure) == (found.result, found.failure)
    assert {} == command._running


def test_groups_end_with_their_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command has started in its group ends with it, in time or not."""
    monkeypatch.setattr(command, "GRACE_S", 0.1)
    for line, timeout_s in (("echo 1", 60.0), ("sleep 100", 0.5)):
        found = CommandEvaluator(f"sleep 1000 & echo $! > '{tmp_path}/pid'; {line} # {{}}", timeout_s)(tmp_path)
        assert (line == "echo 1") == (found.result == 1.0)
        assert gone(int((tmp_path / "pid").read_text()))


def gone(pid: int) -> bool:
    """Whether a process has ended, or does within a minute."""
    for _ in range(6000):
        try:
            if "Z" == Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_much_output(tmp_path: Path) -> None:
    """Megabytes on both streams are no reason to hang, and the end is what counts."""
    line = "head -c 3000000 /dev/zero | tr '\\0' 'x' >&2; head -c 3000000 /dev/zero | tr '\\0' 'y'; echo; echo 0.75"
    assert Evaluation(0.75) == CommandEvaluator(f"{line} # {{}}", 60)(tmp_path)


def test_folder_of_the_candidate(tmp_path: Path) -> None:
    """The folder stands in the place of every {}, or at the end, and in the environment; no name breaks the line."""
    folder = tmp_path / "it's a 'folder'; exit 5 #"
    folder.mkdir()
    (folder / "score").write_text("0.5")
    for line in (
        "cat {}/score",
        'cat "$DOVETAIL_CANDIDATE/score"',
        "test -d {} && cat {}/score",
        "sh -c 'cat \"$1/score\"' sh",
    ):
        assert Evaluation(0.5) == CommandEvaluator(line, 60)(folder), line
    assert "eval.py --json /a/b" == command_line("eval.py --json", Path("/a/b"))


def test_shell_s_comforts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables before the command, pipes and the current folder are what they are in a shell."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "number").write_text("7")
    assert Evaluation(7.0) == CommandEvaluator("A=1 cat number | tail -1 # {}", 60)(tmp_path)
    assert str(tmp_path) == os.getcwd()
