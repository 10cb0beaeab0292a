"""What can happen at a call of the operating system, and everything that can happen at the calls of a command."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum


class Action(IntEnum):
    """What happens at the call that is struck; the numbers are those of `preload.c`."""

    FAIL = 0
    """It returns an error."""
    KILL = 1
    """The process is killed before it."""
    INTERRUPT = 2
    """The process receives SIGINT before it."""
    TEAR = 3
    """If it writes, it writes half, and then the process is killed."""


@dataclass(frozen=True)
class Strike:
    """One call, and what happens at it."""

    kind: str
    """Kind of the call, a name of `Library.kinds`; ``any`` for every kind."""
    number: int
    """Which call of that kind, from 1 on; 0 for none, to count them."""
    action: Action
    """What happens."""
    error: int = 0
    """The errno of a failure."""
    lasting: bool = False
    """Whether all later calls of the kind fail as well."""

    def __str__(self) -> str:
        name = f"{errno.errorcode[self.error]} " if self.action is Action.FAIL else ""
        return f"{name}{self.action.name.lower()} at {self.kind} {self.number}{' and later' if self.lasting else ''}"


def strikes(counts: dict[str, int], total: int) -> Iterator[Strike]:
    """Give every strike at a command that makes so many calls.

    Killed between two calls that change the disk, the command leaves the same, so that one kill stands for all of them.
    """
    for kind, count in counts.items():
        for number in range(1, count + 1):
            if kind == "change":
                yield Strike(kind, number, Action.KILL)
                continue
            for error in ERRORS.get(kind, (errno.EIO,)):
                yield Strike(kind, number, Action.FAIL, error)
            if kind == "write":
                yield Strike(kind, number, Action.FAIL, errno.ENOSPC, lasting=True)
                yield Strike(kind, number, Action.TEAR)
    for number in range(1, total + 1):
        yield Strike("any", number, Action.INTERRUPT)


ERRORS = {
    "open": (errno.EACCES, errno.EMFILE),
    "create": (errno.EACCES, errno.ENOSPC),
    "write": (errno.EIO, errno.EDQUOT),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EACCES, errno.ENOSPC),
    "mkdir": (errno.EACCES, errno.ENOSPC),
    "unlink": (errno.EACCES,),
    "truncate": (errno.EIO, errno.ENOSPC),
    "map": (errno.ENOMEM,),
    "populate": (errno.EFAULT,),
    "lock": (errno.ENOLCK,),
    "thread": (errno.EAGAIN,),
}
"""What calls of a kind fail with; EIO for all others."""
