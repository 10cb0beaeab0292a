"""Trying again what a network has failed at: soon at first, then less and less often, and not for ever."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from dovetail.io.errors import RemoteError

ATTEMPTS = 6
"""How often a request is made before it is given up."""

FIRST_DELAY_S = 0.5
"""Pause before the second attempt, in seconds; each further one is twice as long."""

LONGEST_DELAY_S = 30.0
"""Longest pause, unless the server asks for more."""

LONGEST_ASKED_S = 120.0
"""Longest pause that a server can ask for; beyond, the request is given up at once."""

T = TypeVar("T")

_abandoned = threading.Event()


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


def abandon() -> None:
    """End every pause in this process, and let failures be failures: whoever works shall finish soon."""
    _abandoned.set()


def persist() -> None:
    """Try again from now on."""
    _abandoned.clear()


def with_retries(attempt: Callable[[], T], address: str) -> T:
    """Call `attempt` until it succeeds, pausing with jitter after each `TransientError`.

    Raises
    ------
    RemoteError
        It failed too often, or has failed and `abandon` was called.

    """
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
        if _abandoned.wait(max(asked, delay)):
            raise RemoteError(f"{address} was not tried again", "time to", "run the same command again to continue")
    raise AssertionError("unreachable: the last attempt returns or raises")
