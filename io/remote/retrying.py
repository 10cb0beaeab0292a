"""Repeating requests that failed: soon at first, then after longer and longer pauses, up to a number of attempts."""

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
"""Number of attempts after which a request is given up."""

FIRST_DELAY_S = 0.5
"""Pause before the second attempt, in seconds; each further pause is twice as long."""

LONGEST_DELAY_S = 30.0
"""Longest pause in seconds, unless the server asks for a longer one."""

LONGEST_ASKED_S = 120.0
"""Longest pause, in seconds, that a server may ask for; if it asks for more, the request is given up at once."""

LOOK_AGAIN_S = 0.25
"""Seconds after which a process that did not start a run looks again whether the run was given up."""

T = TypeVar("T")


class TransientError(Exception):
    """A failure after which another attempt may succeed.

    Parameters
    ----------
    reason
        What happened, worded to stand in brackets; it must not quote an address, which may be signed.
    after_s
        Pause in seconds that the server asks for; None if it asks for none.

    """

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.after_s = reason, after_s


class Patience:
    """Decides whether the requests of one run are repeated: they are, until the run is given up.

    It can be pickled. A copy in another process of this machine sees that the run was given up by a file, the flag, in
    the folder for temporary files. A copy on another machine cannot see the flag, and makes all `ATTEMPTS`.

    Parameters
    ----------
    flag
        Path of the flag; None to choose a new path. The file is made only if the object was pickled.

    """

    def __init__(self, flag: Path | None = None) -> None:
        self.copied = flag is not None
        """Whether this object was unpickled, so that only the flag shows whether the run was given up."""
        self.flag = flag or Path(tempfile.gettempdir()) / f"dovetail-given-up-{uuid.uuid4().hex}"
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._pickled = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the path of the flag, and make the flag now if the run was given up already."""
        with self._lock:
            self._pickled = True
            if self._given_up.is_set():
                self._tell()
        return Patience, (self.flag,)

    def give_up(self) -> None:
        """End all pauses of the run, and repeat no request any more, so that its tasks end soon."""
        with self._lock:
            self._given_up.set()
            if self._pickled:
                self._tell()

    def close(self) -> None:
        """Remove the flag; to be called when no task of the run is left."""
        with contextlib.suppress(OSError):
            self.flag.unlink(missing_ok=True)

    def wait(self, seconds: float) -> bool:
        """Pause for some seconds, or until the run is given up; return whether it was given up."""
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
        with contextlib.suppress(OSError):  # without the flag, tasks in other processes make all their attempts
            self.flag.touch()


_OUTSIDE = Patience()
"""The patience for requests that belong to no run; it is never given up."""

_patience: ContextVar[Patience] = ContextVar("patience", default=_OUTSIDE)


@contextlib.contextmanager
def patient(patience: Patience) -> Iterator[None]:
    """Let `with_retries` on this thread ask the patience of a run, until the end of the block."""
    token = _patience.set(patience)
    try:
        yield
    finally:
        _patience.reset(token)


def with_retries(attempt: Callable[[], T], address: str) -> T:
    """Call `attempt` until it succeeds, with a pause of partly random length after each `TransientError`.

    Raises
    ------
    RemoteError
        `attempt` has failed `ATTEMPTS` times, or it has failed and the run was given up.

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
            raise RemoteError(
                f"{address} is not asked again, because the run has ended", "", "run the same command again to continue"
            )
    raise AssertionError("unreachable: the last attempt returns or raises")
