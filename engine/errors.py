"""The engine's part of the error tree (its root and the checkpoint errors are in ``dovetail.io.errors``).

::

    DovetailError
    ├── CheckpointError ...            exit code 3, see dovetail.io.errors
    │   └── ArchitectureError          a network, or what describes one, that cannot be used
    ├── RecipeError (ValueError)       exit code 2: the recipe or an option is wrong
    ├── DoesNotFitError                exit code 4
    │   ├── MemoryLimitError           the plan's projection exceeds the memory limit
    │   └── DiskSpaceError             the output does not fit on the disk
    ├── OutputError (OSError)          exit code 5: the output cannot be written or is refused
    │   ├── PartTakenError             another process is making the same part of a merge
    │   └── OtherLayoutError           parts of the same merge have shards of another size
    ├── VerificationError              exit code 5: an output is not what its manifest says
    ├── WorkerLostError                exit code 5: a process that ran tasks has died
    ├── WorkerVersionError             exit code 5: a worker of a cluster has another version than the client
    ├── DifferenceError                exit code 6: compared checkpoints differ by more than was allowed
    ├── EvaluationError                exit code 7: no candidate of a search could be evaluated
    ├── ConversionsFailedError         the exit code of the first of several conversions that failed
    └── InterruptedMergeError (KeyboardInterrupt)  exit code 130: stopped on request
"""

from __future__ import annotations

import errno
from typing import Any

from dovetail.io.errors import CheckpointError, system_limit, thread_limit
from dovetail.io.errors import DovetailError as DovetailError  # the root of the tree, which callers catch


class DataError(CheckpointError):
    """A data set is missing, damaged or not of the form that it should have; exit code 3 like a bad checkpoint's."""


class ArchitectureError(CheckpointError):
    """A network has a layer that is not supported, or what describes it is damaged or does not fit its tensors."""


class RecipeError(DovetailError, ValueError):
    """The recipe, or an option given beside it, is wrong."""

    exit_code = 2


class DoesNotFitError(DovetailError):
    """The merge does not fit in memory or on disk."""

    exit_code = 4


class MemoryLimitError(DoesNotFitError):
    """The plan's projected memory exceeds the limit."""


class DiskSpaceError(DoesNotFitError):
    """The output does not fit on the disk."""


class OutputError(DovetailError, OSError):
    """The output cannot be written, or is refused."""

    exit_code = 5


class PartTakenError(OutputError):
    """Another process is making the same part of a merge."""


class OtherLayoutError(OutputError):
    """Parts of the same merge have shards of another size than this process has planned."""


class VerificationError(DovetailError):
    """An output is not what its manifest says."""

    exit_code = 5


class WorkerLostError(DovetailError):
    """A process that ran tasks for the merge has died."""

    exit_code = 5


class WorkerVersionError(DovetailError):
    """A worker of a cluster has another version of something than the client."""

    exit_code = 5


class DifferenceError(DovetailError):
    """Two checkpoints differ by more than was allowed."""

    exit_code = 6


class EvaluationError(DovetailError):
    """No candidate of a search could be evaluated."""

    exit_code = 7


class ConversionsFailedError(DovetailError):
    """Some of several conversions have failed.

    Parameters
    ----------
    count
        Number of all conversions.
    failed
        The sources that could not be converted.
    exit_code
        The exit code of the first failure.

    """

    def __init__(self, count: int, failed: tuple[str, ...], exit_code: int) -> None:
        self.count, self.failed, self.exit_code = count, failed, exit_code
        super().__init__(
            f"{len(failed)} of {count} checkpoints could not be converted: {', '.join(failed)}",
            action="correct the errors above and run the same command again, which leaves complete conversions alone",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error by the arguments that made it."""
        return type(self), (self.count, self.failed, self.exit_code)


class InterruptedMergeError(DovetailError, KeyboardInterrupt):
    """The merge was stopped on request.

    It is a `KeyboardInterrupt` too, so that a program ends by Ctrl-C as any other does.
    """

    exit_code = 130


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def describe(error: Exception) -> tuple[str, int]:
    """Give a line that tells people about an error, and the exit code of the command.

    An error that neither Dovetail nor the operating system raises on purpose is a defect of Dovetail: exit code 1.
    """
    error = thread_limit(error) or error
    if isinstance(error, DovetailError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        if (limit := system_limit(error)) is not None:
            return str(limit), limit.exit_code
        where = f" at {error.filename}" if error.filename else ""
        if error.errno in _DISK_FULL:
            return (
                f"disk full{where}; expected room for the whole output; free some space and run the same command "
                "again to continue",
                4,
            )
        return (
            f"{error.strerror or error}{where}; expected to read the inputs and write the output; correct that and run "
            "the same command again to continue",
            5,
        )
    if isinstance(error, MemoryError):
        return "out of memory; expected the limit to be available; pass a smaller --memory", 4
    return (
        f"{type(error).__name__}: {error}; this is a defect of Dovetail; run again with --debug and report it",
        1,
    )
