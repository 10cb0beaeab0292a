"""The command ``dovetail search``, as a user meets it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from dovetail.engine import events
from dovetail.engine.cli.report.search import LiveSearch
from tests.checkpoints import write_recipe
from tests.engine.command import COMMAND, dovetail
from tests.engine.conftest import Family
from tests.engine.searching.searches import marked
from tests.engine.searching.test_evaluations import gone
from tests.pace import HANGS_S


@pytest.fixture
def recipe(family: Family) -> Path:
    """Write a recipe with marks."""
    return write_recipe(family.home / "marked.yml", **marked(family))


def test_lines(family: Family, recipe: Path) -> None:
    """Without a terminal there is a line for the start, one for each candidate, and the summary."""
    found = dovetail("search", recipe, family.out, "--evaluate", "wc -c < {}/config.json", "--budget", "2")
    assert 0 == found.code, found.err
    first, one, two, *summary = found.out.splitlines()
    assert (
        "task_arithmetic: searching weight[math], weight[code] by cma; at most 2 candidates of 147 KiB, 1 at once"
        == first
    )
    size = (family.out / "model" / "config.json").stat().st_size
    assert f"1/2: weight[math] 1, weight[code] 1: {size}" == one
    assert two.startswith("2/2: weight[math] ")
    assert ["start", "best"] == summary[0].split()
    assert ["weight[math]", "1", "1"] == summary[1].split()
    assert ["score", str(size), str(size)] == summary[3].split()
    assert "2 candidates evaluated; stopped: the budget of 2 evaluations is spent" == summary[5]
    again = dovetail("search", recipe, family.out, "--evaluate", "wc -c < {}/config.json", "--budget", "2")
    assert (0, f"{family.out} is this search already; nothing to do.\n") == (again.code, again.err)
    merged = dovetail("merge", family.out / "recipe.yml", family.home / "again", "--quiet")
    assert (0, "") == (merged.code, merged.err)


def test_json(family: Family, recipe: Path) -> None:
    """With --json every line is an event, from the start of the search to its end."""
    line = 'echo \'{"math": 1.0, "code": 2.0}\' #'
    found = dovetail(
        "search", recipe, family.out, "--evaluate", line, "--budget", "3", "--json", "--optimizer", "random"
    )
    assert 0 == found.code, found.err
    assert ["search", "candidate", "candidate", "candidate", "searched"] == [each["event"] for each in found.events]
    last, end = found.events[-2:]
    assert ({"math": 1.0, "code": 2.0}, 0.0, "awa", 3) == tuple(
        last[k] for k in ("result", "cost", "objective", "evaluated")
    )
    assert (0, 3, 0, False) == tuple(end[key] for key in ("number", "evaluated", "failed", "already"))


def test_quiet(family: Family, recipe: Path) -> None:
    """With --quiet only failures are printed."""
    line = 'test -e "$0.second" && exit 1; touch "$0.second"; echo 1 #'.replace("$0", str(family.home / "x"))
    found = dovetail("search", recipe, family.out, "--evaluate", line, "--budget", "2", "--quiet")
    assert (0, "", "warning: candidate 1 failed: it ended with exit code 1\n") == (found.code, found.out, found.err)
    assert 1 == json.loads((family.out / "history.json").read_text())["failed"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--evaluate", "no-such-program"), 7, "failed, the last one because it ended with exit code 127: /bin/sh"),
        (("--evaluate", "echo good"), 7, "it printed 'good /"),
        (("--evaluate", "sleep 100 #", "--timeout", "0.1"), 7, "because it gave no result within 0.1 s"),
        (("--evaluate", "true", "--budget", "0"), 2, "--budget"),
        (("--evaluate", "true", "--optimizer", "adam"), 2, "'adam' is not one of 'cma', 'grid', 'random', 'quadratic'"),
        (("--evaluate", "true", "--timeout", "-1"), 2, "timeout_s is -1.0; expected seconds above 0"),
        (("--evaluate", " "), 2, "the evaluator's command is empty"),
        ((), 2, "--evaluate"),
    ],
)
def test_mistakes(family: Family, recipe: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    """A mistake is one line, with its exit code, and leaves nothing behind."""
    found = dovetail("search", recipe, family.out, *arguments, *(() if "--budget" in arguments else ("--budget", "2")))
    assert code == found.code
    assert text in found.err
    assert not family.out.exists()
    assert not family.staging.exists()


def test_merge_names_the_command(family: Family, recipe: Path) -> None:
    """A recipe with marks that is merged says which command searches it."""
    for command in (("merge", recipe, family.out), ("plan", recipe)):
        found = dovetail(*command)
        assert 2 == found.code
        assert (
            "models[0].parameters.weight is marked to be searched; expected a value; find it by 'dovetail search"
            in found.err
        )
    plain = dovetail("search", family.recipe_path, family.out, "--evaluate", "true")
    assert "nothing is marked to be searched" in plain.err


def test_interrupts_leave_no_evaluator(family: Family, recipe: Path) -> None:
    """Ctrl-C ends the search and its evaluators with one line; the same command goes on."""
    pids = family.home / "pids"
    line = f"echo $$ >> {pids}; test -e {family.home}/go || sleep 1000; echo 1 #"
    command = [*COMMAND, "search", str(recipe), str(family.out), "--evaluate", line, "--budget", "3"]
    command += ["--workers-of-evaluation", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + HANGS_S
        while not pids.exists() or not pids.read_text().endswith("\n"):
            assert time.monotonic() < deadline, "no evaluator has started"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HANGS_S)
    lines = [each for each in err.splitlines() if "Compiling" not in each]
    assert 130 == process.returncode
    safe = f"what 0 candidates of at most 3 gave is safe in {family.staging}"
    assert [f"error: search interrupted; {safe}; run the same command again to continue"] == lines
    assert all(gone(int(pid)) for pid in pids.read_text().split())
    (family.home / "go").touch()
    assert 0 == dovetail(*command[len(COMMAND) :]).code


def test_live_table() -> None:
    """In a terminal a table shows the best candidate, the last, and what is left; failures stand above it."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=20)

    def candidate(number: int, cost: float | None, failure: str = "") -> events.Candidate:
        result = None if cost is None else -cost
        values = {"weight[math]": 0.5 + number, "pruning_order": ["a/x", "b/y"]}
        return events.Candidate(number, 0, values, result, failure, cost, "score", number + 1, 5, 10.0, 100.0)

    with LiveSearch(console) as display:
        display(events.SearchStarted("cabs", ("weight[math]",), "cma", 5, 0, 2**20, 1, "/tmp/x"))
        for event in (candidate(0, -0.25), candidate(1, -0.75), candidate(2, None, "it printed nothing")):
            display(event)
        shown = Console(file=io.StringIO(), width=80)
        shown.print(display.table())
    lines = [line.split() for line in shown.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["number", "weight[math]", "pruning_order", "result"] == lines[0]
    assert ["best", "1", "1.5", "x,", "y", "0.75"] == lines[1]
    assert ["last", "2", "2.5", "x,", "y", "failed"] == lines[2]
    assert "2 evaluations left, about 1 min 40 s" == " ".join(lines[3])
    assert "failed: candidate 2: it printed nothing" in console.file.getvalue()  # type: ignore[attr-defined]


def test_second_request_ends_evaluators(tmp_path: Path) -> None:
    """A request to stop that is answered at once, in the middle of anything, ends evaluators too."""
    code = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from dovetail.engine.cli.stopping import _Answer\n"
        "from dovetail.engine.searching.command import CommandEvaluator\n"
        "line = f'echo $$ > {sys.argv[1]}/pid; sleep 1000 #'\n"
        "threading.Thread(target=CommandEvaluator(line, None), args=(Path(sys.argv[1]),), daemon=True).start()\n"
        "while not os.path.exists(sys.argv[1] + '/pid'): time.sleep(0.01)\n"
        "_Answer(as_json=False)(2, sys._getframe())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], timeout=HANGS_S, check=False, capture_output=True
    )
    assert 130 == done.returncode
    assert gone(int((tmp_path / "pid").read_text() or os.getpid()))
