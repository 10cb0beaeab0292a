"""What must hold of how a command ended, after which a call of it was struck."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.strikes import Action, Strike

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = ("Traceback", "Exception ignored", "defect of Dovetail")
_INTERMEDIATE = ("kept", ".out.dovetail-stages", "model.zarr")
"""Folders of the scenarios in which what one command or stage has made is read by the next."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int | None
    """Exit code, or minus the number of a signal; None if it hung."""
    out: str
    """Standard output."""
    err: str
    """Standard error."""

    @property
    def says_finished(self) -> bool:
        """Whether it said that the output was there already."""
        return "nothing to do" in self.out + self.err


@dataclass(frozen=True)
class Verdict:
    """What came of a trial."""

    scenario: str
    """The scenario."""
    strike: Strike
    """What was done."""
    call: str
    """The call that was struck; empty if the command never came to it."""
    path: str
    """What the call concerned, below the folder of the scenario."""
    outcome: str
    """``at once`` or ``on retry``, as the command finished; ``not reached``; or ``escape``."""
    reason: str = ""
    """What did not hold."""
    ended: Ended | None = None
    """How the process ended that shows it."""


def wrong(strike: Strike, ended: Ended, path: str, root: Path) -> str:
    """Say what is wrong with how a struck command ended.

    Parameters
    ----------
    strike
        What was done to it.
    ended
        How it ended.
    path
        The file that the call concerned; empty if it was none.
    root
        The folder of the scenario: ``in`` has the inputs, ``work`` all else.

    Returns
    -------
    str
        What is wrong; an empty text if nothing is.

    """
    code, err = ended.code, ended.err
    for text in _BROKEN:
        if text in err + ended.out:
            return f"exit code {code}, {text!r} in its output"
    if code is None:
        return "it hangs"
    if code == 0:
        return ""
    if strike.action in (Action.KILL, Action.TEAR):
        return "" if code == -signal.SIGKILL else f"exit code {code} after a kill"
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != 1 or lines[-1] != errors[0]:
        return f"exit code {code}, and not one line of an error at the end"
    right = (130,) if strike.action is Action.INTERRUPT else _codes(strike, path, root)
    return "" if code in right else f"exit code {code} instead of {' or '.join(map(str, right))}"


def _codes(strike: Strike, path: str, root: Path) -> Sequence[int]:
    """Give the exit codes that a failure at a path may have: 3 for an input, 4 for a full disk, 5 for an output."""
    place, inputs = Path(os.path.normpath(path)), root / "in"
    if strike.kind == "thread":
        return (4, 5)
    if strike.error in (errno.ENOMEM, errno.EMFILE):
        return (4,)
    if place == inputs / "recipe.yml":
        return (2, 3)
    if strike.kind == "populate" or place in (root / "work", root, *root.parents):
        # It concerns no file that is known, or a folder above both what is read and what is written.
        return (4,) if strike.error in _FULL else (3, 5)
    looked_for = place.parent == root / "work" and (inputs / place.name).exists()  # before the recipe's folder
    if inputs in (place, *place.parents) or looked_for:
        return (3,)
    if strike.error in _FULL:
        return (4,)
    return (3, 5) if any(name in place.parts for name in _INTERMEDIATE) else (5,)
