"""Trying again what a network has failed at: soon at first, then less and less often, and not for ever."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from dovetail.io.errors import RemoteError

ATTEMPTS = 6
"""How often a request is made before it is given up."""

FIRST_DELAY_S = 0.5
"""Pause before the second attempt, in seconds; each further one is twice as long."""

LONGEST_DELAY_S = 30.0
"""Longest pause, unless the server asks for more."""

LONGEST_ASKED_S = 120.0
"""Longest pause that a server can ask for; beyond, the request is given up at once."""

LOOK_AGAIN_S = 0.25
"""How often a process that did not start a run looks whether the run was given up, in seconds."""

T = TypeVar("T")


class TransientError(Exception):
    """A failure that may be gone at the next attempt.

    Parameters
    ----------
    reason
        What happened, worded to stand in brackets; quotes no address, which may be a signed one.
    after_s
        Seconds after which the server says it will answer.

    """

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.after_s = reason, after_s


class Patience:
    """One run's readiness to try again, until the run is given up.

    It is picklable: a copy in another process of this machine learns from a file in the folder for temporary files
    that the run was given up. A copy on another machine cannot see that file, and goes on for `ATTEMPTS` attempts.

    Parameters
    ----------
    flag
        The file that tells other processes; None to choose a new one, which is made only if it is needed.

    """

    def __init__(self, flag: Path | None = None) -> None:
        self.copied = flag is not None
        """Whether this object was unpickled, in which case the file is what tells."""
        self.flag = flag or Path(tempfile.gettempdir()) / f"dovetail-given-up-{uuid.uuid4().hex}"
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._pickled = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name of the file alone, and make the file if the run was given up before."""
        with self._lock:
            self._pickled = True
            if self._given_up.is_set():
                self._tell()
        return Patience, (self.flag,)

    def give_up(self) -> None:
        """End every pause of the run, and let its next failure be its last, so that its tasks end soon."""
        with self._lock:
            self._given_up.set()
            if self._pickled:
                self._tell()

    def close(self) -> None:
        """Remove the file, when no task of the run is left."""
        with contextlib.suppress(OSError):
            self.flag.unlink(missing_ok=True)

    def wait(self, seconds: float) -> bool:
        """Pause for so many seconds, or until the run is given up; return whether it was."""
        if not self.copied:
            return self._given_up.wait(seconds)
        end = time.monotonic() + seconds
        while not os.path.exists(self.flag):  # noqa: PTH110 - Path.exists raises where a folder may not be read
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, LOOK_AGAIN_S))
        return True

    def _tell(self) -> None:
        with contextlib.suppress(OSError):  # without the file, tasks elsewhere end after their last attempt
            self.flag.touch()


_OUTSIDE = Patience()
"""The patience of whatever belongs to no run, which nobody gives up."""

_patience: ContextVar[Patience] = ContextVar("patience", default=_OUTSIDE)


@contextlib.contextmanager
def patient(patience: Patience) -> Iterator[None]:
    """Let `with_retries` on this thread heed the patience of a run, until the end of the block."""
    token = _patience.set(patience)
    try:
        yield
    finally:
        _patience.reset(token)


def with_retries(attempt: Callable[[], T], address: str) -> T:
    """Call `attempt` until it succeeds, pausing with jitter after each `TransientError`.

    Raises
    ------
    RemoteError
        It failed too often, or it has failed and the run that this thread works for was given up.

    """
    patience = _patience.get()
    for count in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except TransientError as error:
            asked = error.after_s or 0.0
            if count == ATTEMPTS or asked > LONGEST_ASKED_S:
                wait = f", and the server asks for a pause of {asked:.0f} s" if asked > LONGEST_ASKED_S else ""
                times = "attempt" if count == 1 else "attempts"
                raise RemoteError(
                    f"{address} cannot be read ({error.reason}) after {count} {times}{wait}",
                    "an answer",
                    "check the network and the server, and run the same command again to continue",
                ) from error
            delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (count - 1)) * random.uniform(0.5, 1.0)
        if patience.wait(max(asked, delay)):
            raise RemoteError(f"{address} was not tried again", "time to", "run the same command again to continue")
    raise AssertionError("unreachable: the last attempt returns or raises")
