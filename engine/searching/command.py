"""Evaluating a candidate by a command: in a process group of its own, which ends with the evaluation, however it ends.

The command is a line for the shell. It gets the candidate's folder in the place of every ``{}``, or else as its last
argument, and in the variable ``DOVETAIL_CANDIDATE``. Its standard output is read for JSON; the last line of its
standard error names what went wrong.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from dovetail.engine.searching.evaluations import Evaluation, failed, read_printed

FOLDER_VARIABLE: Final = "DOVETAIL_CANDIDATE"
"""The variable of the environment that has the candidate's folder."""

GRACE_S: Final = 2.0
"""Seconds between asking a group of processes to end and killing it."""
_KEPT_BYTES: Final = 2**20
"""Bytes of a stream that are kept: its end."""
_LAST_READS: Final = 32
"""Most reads of a stream once its process has ended: more than a pipe holds."""
_LONGEST_LINE: Final = 300
"""Longest line of standard error that is shown, in characters."""

_running: dict[int, subprocess.Popen[bytes]] = {}
"""The processes of this program's evaluators by their identifiers, which are those of their groups too."""


class CommandEvaluator:
    """Evaluates candidates by a command.

    Parameters
    ----------
    command
        The command, for the shell.
    timeout_s
        Seconds after which an evaluation counts as failed; None for no limit.

    """

    def __init__(self, command: str, timeout_s: float | None) -> None:
        self._command, self._timeout_s = command, timeout_s

    is_command = True
    """Tells it from functions, which cannot be ended."""

    def __call__(self, folder: Path) -> Evaluation:
        """Evaluate the candidate in a folder."""
        environment = {**os.environ, FOLDER_VARIABLE: str(folder)}
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command_line(self._command, folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            return failed(f"it could not be started: {error.strerror}")
        _running[process.pid] = process
        try:
            printed, complained, in_time = _follow(process, self._timeout_s)
        finally:
            _end(process)
            del _running[process.pid]
        last = _last_line(complained)
        if not in_time:
            return failed(f"it gave no result within {self._timeout_s:g} s{last}")
        if process.returncode != 0:
            return failed(f"{_ended(process.returncode)}{last}")
        found = read_printed(printed.decode(errors="replace"))
        return failed(found.failure + last) if found.failed else found


def command_line(command: str, folder: Path) -> str:
    """Put a candidate's folder into a command for the shell."""
    quoted = shlex.quote(str(folder))
    if "{}" in command:
        return command.replace("{}", quoted)
    return command if FOLDER_VARIABLE in command else f"{command} {quoted}"


def end_all() -> None:
    """End every evaluator that runs, at once: the program is about to end."""
    _send(signal.SIGKILL)


def ask_all() -> None:
    """Ask every evaluator that runs to end."""
    _send(signal.SIGTERM)


def _send(number: signal.Signals) -> None:
    for pid in list(_running):  # without a lock, which the interrupted thread may hold
        with contextlib.suppress(OSError):
            os.killpg(pid, number)


def _follow(process: subprocess.Popen[bytes], timeout_s: float | None) -> tuple[bytes, bytes, bool]:
    """Read what a process prints until it ends; give the ends of both streams, and whether it ended in time."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    assert process.stdout is not None
    assert process.stderr is not None
    kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    for descriptor in kept:
        os.set_blocking(descriptor, False)
    ending = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for descriptor in (*kept, ending):
                selector.register(descriptor, selectors.EVENT_READ)
            in_time = ended = False
            while not ended:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                ready = {key.fd for key, _ in selector.select(left)}
                in_time = ended = ending in ready
                for descriptor in ready & set(kept):
                    if not _read(descriptor, kept[descriptor]):
                        selector.unregister(descriptor)
        for descriptor, data in kept.items():
            for _ in range(_LAST_READS):  # another process of the group might write for ever
                if not _read(descriptor, data):
                    break
    finally:
        os.close(ending)
    return bytes(kept[process.stdout.fileno()]), bytes(kept[process.stderr.fileno()]), in_time


def _read(descriptor: int, kept: bytearray) -> bool:
    """Read what is there now, and keep the end of all that was read; False if nothing is there, or ever will be."""
    try:
        data = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return False
    kept += data
    del kept[: max(0, len(kept) - _KEPT_BYTES)]
    return bool(data)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with its whole group, and take its exit code.

    The identifier is not free for others before the exit code is taken, so that no other group can be hit.
    """
    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                break
            time.sleep(0.01)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}"


def _last_line(data: bytes) -> str:
    """Give the last line that is not blank, to follow a reason; empty if there is none."""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:_LONGEST_LINE]}" if lines else ""
