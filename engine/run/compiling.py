"""Letting one process compile the kernels that several need, while the others wait to find them in the cache.

Nothing but processor time depends on it. Who cannot have the lock, or has waited long enough, compiles too: what is
compiled is the same, and a file of the cache gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dovetail.engine.run.lock import Hold, hold_lock
from dovetail.io.files.interrupts import check_interrupts

WAIT_S: Final = 600.0
"""Most seconds to wait for another process, which may be stopped."""

_LOOK_S: Final = 0.2
"""Seconds between two looks whether it has ended."""


@contextlib.contextmanager
def one_compiler(path: Path, found: Callable[[], bool], waiting: Callable[[], None]) -> Iterator[bool]:
    """Wait while another process compiles the same; hold the lock during the block, and give whether to compile.

    Parameters
    ----------
    path
        The lock's file, in the cache, by whose name processes know that they need the same.
    found
        Looks whether all is in the cache.
    waiting
        Called once, before another process is waited for.

    """
    until, told = time.monotonic() + WAIT_S, False
    while True:
        with _asked(path, shared=False) as taken:
            if not taken or time.monotonic() > until:
                yield not found()
                return
        if not told:
            told = True
            waiting()
        _wait(path, until)
        if found():
            yield False
            return


def _wait(path: Path, until: float) -> None:
    """Wait until no process has the lock; all that wait see that at once, since each asks to share it."""
    while time.monotonic() < until:
        check_interrupts()
        time.sleep(_LOOK_S)
        with _asked(path, shared=True) as taken:
            if not taken:
                return


@contextlib.contextmanager
def _asked(path: Path, *, shared: bool) -> Iterator[bool]:
    """Hold a lock during the block if it can be had; give whether another process has it."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            hold = stack.enter_context(hold_lock(path, shared=shared))
        except OSError:  # a cache that cannot be written, or is being removed
            hold = Hold.NONE
        yield hold is Hold.OTHERS
