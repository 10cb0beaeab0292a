"""The command ``dovetail``, cut into many small tasks, that pauses at a given place until a line comes in.

    python -m tests.faults.paused PLACE merge RECIPE OUT ...

PLACE is ``commit:N``, after N tasks are durable, or ``MODULE:FUNCTION:N``, before the N-th call of that function.
The word "paused" on standard output tells that it is there. Whoever started the process inflicts a fault, and lets it
go on.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dovetail.engine.cli import main, options
from dovetail.engine.planning import grid
from dovetail.engine.run import budget, commit, execution

COMMAND = (sys.executable, "-m", "tests.faults.paused")
"""What starts it, in the folder `HOME`."""

HOME = Path(__file__).parents[2]
"""The repository."""


def small_tasks() -> None:
    """Cut tensors into chunks of 1,000 elements, let no more than three wait to be committed, and permit any shards."""
    options.LEAST_BYTES = 1
    grid.CHUNK_STEP, grid.TASK_BYTES, commit.GROUP_BYTES = 1000, 1, 1
    budget.Budget.unwritten_bytes = 4000  # type: ignore[assignment, method-assign]  # a property otherwise


def _pause() -> None:
    print("paused", flush=True)
    sys.stdin.readline()


def _pause_after_commits(count: int) -> None:
    report, left = execution.Execution._report_durable, [True]

    def report_and_pause(self: execution.Execution) -> None:
        report(self)
        if left and self._durable_tasks >= count:
            left.clear()
            _pause()

    execution.Execution._report_durable = report_and_pause  # type: ignore[method-assign]


def _pause_before(module: str, names: str, count: int) -> None:
    owner: Any = importlib.import_module(module)
    *outer, name = names.split(".")
    for each in outer:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), [0]

    def pause_and_call(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            _pause()
        return function(*arguments, **named)

    setattr(owner, name, pause_and_call)


def run(place: str, arguments: Sequence[str]) -> NoReturn:
    """Run the command in this process, with a pause at a place, and exit."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored where the tests run under nohup
    small_tasks()
    name, *what = place.split(":")
    if name == "commit":
        _pause_after_commits(int(what[0]))
    elif name:
        _pause_before(name, what[0], int(what[1]) if len(what) > 1 else 1)
    main.main(arguments)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
