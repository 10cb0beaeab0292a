"""Each kind of failure has its text and its exit code."""

from __future__ import annotations

import errno
import os
import pickle

import pytest

from dovetail.engine.errors import (
    DiskSpaceError,
    InterruptedMergeError,
    MemoryLimitError,
    OutputError,
    RecipeError,
    describe,
)
from dovetail.io.errors import CheckpointError, DovetailError


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (RecipeError, 2),
        (CheckpointError, 3),
        (MemoryLimitError, 4),
        (DiskSpaceError, 4),
        (OutputError, 5),
        (InterruptedMergeError, 130),
    ],
)
def test_our_own_errors(kind: type[DovetailError], code: int) -> None:
    """Our errors have a text of three parts, and stay the same when pickled."""
    error = kind("weight is 7", "at most 1", "correct it")
    assert ("weight is 7; expected at most 1; correct it", code) == describe(error)
    again = pickle.loads(pickle.dumps(error))
    assert (kind, "weight is 7; expected at most 1; correct it") == (type(again), str(again))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(number: int) -> None:
    """A full disk has the exit code for lack of room; the text names the place and says how to continue."""
    assert (
        "disk full at /out/model.safetensors; expected room for the whole output; free some space and run the same "
        "command again to continue",
        4,
    ) == describe(OSError(number, os.strerror(number), "/out/model.safetensors"))


def test_other_errors_of_the_system() -> None:
    """Other errors of the system keep its words, and name the file if there is one."""
    action = "expected to read the inputs and write the output; correct that and run the same command again to continue"
    assert (f"Permission denied at /out; {action}", 5) == describe(
        PermissionError(errno.EACCES, "Permission denied", "/out")
    )
    assert (f"Input/output error; {action}", 5) == describe(OSError(errno.EIO, "Input/output error"))
    assert (f"no number; {action}", 5) == describe(OSError("no number"))


def test_memory_that_runs_out() -> None:
    """If memory runs out below the limit, the text recommends a smaller one."""
    text, code = describe(MemoryError())
    assert ("out of memory; expected the limit to be available; pass a smaller --memory", 4) == (text, code)


def test_defects_are_owned() -> None:
    """Any other error is reported as a defect of Dovetail, with exit code 1."""
    text, code = describe(ZeroDivisionError("division by zero"))
    assert (
        "ZeroDivisionError: division by zero; this is a defect of Dovetail; run again with --debug and report it",
        1,
    ) == (text, code)
