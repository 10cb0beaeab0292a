"""The command in a forked process, which has imported Dovetail and loaded its kernels before it begins."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

from tests.engine.command import Outcome
from tests.faults import paused
from tests.pace import HANGS_S

_CAPABILITIES_3 = 0x20080522
"""The form of capabilities in which they are two words each."""
_ANY_FILE = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which the administrator reads and writes every file."""


class ForkedCommand:
    """A command that has begun.

    Parameters
    ----------
    place
        Where it pauses: see `tests.faults.paused`; empty for nowhere.
    arguments
        What follows its name.
    as_ordinary_user
        Whether it may do no more to files than their owner, also if that is the administrator.

    """

    def __init__(self, place: str, arguments: Sequence[str], *, as_ordinary_user: bool = False) -> None:
        (given, stdin), (out, put) = os.pipe(), os.pipe()
        self._err = tempfile.TemporaryFile()  # noqa: SIM115  until the end of the process
        self.number = _fork()
        if self.number == 0:
            os.close(stdin)
            os.close(out)
            _begin((given, put, self._err.fileno()))
            _run(place, arguments, as_ordinary_user)
        os.close(given)
        os.close(put)
        self.stdin, self.stdout = open(stdin, "w"), open(out)  # noqa: SIM115
        self._outcome: Outcome | None = None

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless its end has been waited for."""
        if self._outcome is None:
            os.kill(self.number, number)

    def kill(self) -> None:
        """Kill it, unless its end has been waited for."""
        self.send_signal(signal.SIGKILL)

    def end(self, said: str = "") -> Outcome:
        """Say something to it, and wait for its end."""
        if self._outcome is None:
            if not self.stdin.closed:
                with contextlib.suppress(BrokenPipeError), self.stdin:
                    self.stdin.write(said)
            out = "" if self.stdout.closed else self.stdout.read()
            self.stdout.close()
            _, status = os.waitpid(self.number, 0)
            with self._err:
                self._err.seek(0)
                self._outcome = Outcome(os.waitstatus_to_exitcode(status), out, self._err.read().decode())
        return self._outcome


def _fork() -> int:
    """Fork: Python warns of threads, of which the tests' libraries have some that hold nothing a command needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _begin(streams: tuple[int, int, int]) -> None:
    """Give this process standard streams of its own, and the handlers of signals that a new process has."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  to the end of the process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()  # pytest's would write of a SIGBUS where the tests' output goes
    faulthandler.dump_traceback_later(HANGS_S, exit=True, file=2)


def _run(place: str, arguments: Sequence[str], as_ordinary_user: bool) -> NoReturn:
    code = 70
    try:
        if as_ordinary_user:
            _leave_every_file()
        paused.run(place, arguments)
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _leave_every_file() -> None:
    """Take from this process what lets the administrator read and write every file, but not his files."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, words = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    for call, change in ((libc.capget, 0), (libc.capset, _ANY_FILE)):
        words[0] &= ~change  # those in effect, of the first 32
        if call(header, words):
            raise OSError(ctypes.get_errno(), "capabilities cannot be given away")
