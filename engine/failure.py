"""What a failure is called and which exit code it gets."""

from __future__ import annotations

import errno

from dovetail.io.errors import DovetailError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def describe(error: Exception) -> tuple[str, int]:
    """Give one line for people and the exit code.

    An error that is not ours and not the operating system's is a defect of Dovetail: exit code 1.
    """
    if isinstance(error, DovetailError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        where = f" at {error.filename}" if error.filename else ""
        if error.errno in _DISK_FULL:
            return (
                f"disk full{where}; expected room for the whole output; free some space and run the same command "
                "again to continue",
                4,
            )
        return (
            f"{error.strerror or error}{where}; expected to read the inputs and write the output; mend that and run "
            "the same command again to continue",
            5,
        )
    if isinstance(error, MemoryError):
        return "out of memory; expected the limit to be available; pass a smaller --memory", 4
    return (
        f"{type(error).__name__}: {error}; this is a defect of Dovetail; run again with --debug and report it",
        1,
    )
