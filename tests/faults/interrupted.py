"""Processes that are asked to stop at a chosen instant: in the middle of an import, or at a call of a function.

    python -m tests.faults.interrupted NUMBER EVENT merge RECIPE OUT ...

runs the command, and sends it the signal NUMBER at the EVENT-th import, file or other thing that Python tells auditors
of, from the start on. With 0 for EVENT it prints the number of events instead, as the last line.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

COMMAND = (sys.executable, "-m", "tests.faults.interrupted")
"""What starts it, in the folder of the repository."""


@dataclass(frozen=True)
class Ended:
    """How a forked process ended."""

    code: int | None
    """Its exit code; None if it hung."""
    err: str
    """What it wrote to standard error."""
    calls: int
    """Calls of functions on its main thread, if it counted all of them."""


Work = Callable[[Callable[[], None]], int]
"""What a forked process does: it is given the function that begins to count calls, and gives the exit code."""


def forked(work: Work, numbers: tuple[int, ...] = (), at: int = 0) -> Ended:
    """Do some work in a forked process, which sends itself signals at the `at`-th call of a function.

    Parameters
    ----------
    work
        What it does.
    numbers
        The signals.
    at
        When they are sent; 0 for never, to count the calls.

    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            _be_forked(work, numbers, at, (out.fileno(), err.fileno(), told.fileno()))
        from tests.faults.forks import wait  # which imports all of the command

        code = wait(child)
        err.seek(0)
        told.seek(0)
        return Ended(code, err.read().decode(), int(told.read() or 0))


def _be_forked(work: Work, numbers: tuple[int, ...], at: int, files: tuple[int, int, int]) -> None:
    code, calls = 70, 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            sys.settrace(None)
            for number in numbers:
                signal.raise_signal(number)

    gc.callbacks.clear()  # those of the tests' libraries: what is raised in them is lost, wherever they are called
    try:
        out, err, told = files
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  to the end of the process
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            code = work(lambda: sys.settrace(count))
        finally:
            sys.settrace(None)
        os.write(told, str(calls).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main() -> None:
    number, at, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    from dovetail.engine.cli.stopping import answer_interrupts

    sys.argv[1:] = arguments
    answer_interrupts(arguments)
    seen = 0

    def audit(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            signal.raise_signal(number)

    sys.addaudithook(audit)
    from dovetail.engine.__main__ import main

    try:
        main()
    finally:
        if not at:
            print(f"\n{seen}")


if __name__ == "__main__":
    _main()
