"""How much memory there is, how much this process holds, and whether a plan fits.

The words: `allowed_bytes` is the limit on the whole process, `reserved_bytes` what it holds before the first task
(interpreter, libraries, compiled kernels, the plan itself: measured), `projected_bytes` what it will hold at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from dovetail.engine.errors import MemoryLimitError
from dovetail.engine.text import format_size
from dovetail.io.files.machine import available_bytes

DEFAULT_LIMIT_BYTES = 2 * 2**30
"""Upper bound of the default limit."""

LARGEST_SHARE = 0.85
"""Part of the free memory that the default limit never exceeds."""

WORKER_OVERHEAD_BYTES = 2 * 2**20
"""Allowance per worker for its stack, allocator arena and Python objects."""

MARGIN_BYTES = 8 * 2**20
"""Allowance for what grows during a run: records, progress display, allocator slack."""

TENSOR_BYTES = 512
"""Allowance per output tensor for what is told of it when its file is complete, or of a comparison at its end."""

_MIB = 2**20


def default_limit_bytes(least_bytes: int = 0) -> int:
    """Half of what is free, at most `DEFAULT_LIMIT_BYTES`; more where a merge needs it and it is there.

    Parameters
    ----------
    least_bytes
        What the merge needs; it is allowed as long as it leaves a part of the free memory.

    """
    free = available_bytes()
    return max(min(DEFAULT_LIMIT_BYTES, free // 2), min(least_bytes, int(LARGEST_SHARE * free)))


@dataclass(frozen=True, slots=True)
class Budget:
    """A plan's memory under a limit."""

    allowed_bytes: int
    """The limit."""
    reserved_bytes: int
    """Held before the first task."""
    task_bytes: int
    """Most that one running task adds: mapped input windows, output buffer, scratch, its partial result of a reduce
    pass and another that waits to be folded."""
    workers: int
    """Tasks that run at once."""
    shared_bytes: int = 0
    """Most that decoded chunks take which tasks share."""

    @property
    def projected_bytes(self) -> int:
        """Most that the process will hold."""
        tasks = self.workers * (self.task_bytes + WORKER_OVERHEAD_BYTES)
        return self.reserved_bytes + tasks + self.shared_bytes + MARGIN_BYTES

    @property
    def unwritten_bytes(self) -> int:
        """Output that may wait for the disk in the page cache, so that a small cgroup never stalls."""
        return max(16 * _MIB, min(256 * _MIB, (self.allowed_bytes - self.reserved_bytes) // 4))


def least(reserved_bytes: int, task_bytes: int) -> int:
    """Give the smallest limit that would do: for one worker, with some room."""
    needed = Budget(0, reserved_bytes, task_bytes, 1).projected_bytes
    return -(-needed // (16 * _MIB)) * 16 * _MIB


def fit(allowed_bytes: int, reserved_bytes: int, task_bytes: int, workers: int) -> Budget:
    """Find the greatest number of workers, at most `workers`, whose projection stays within the limit.

    Raises
    ------
    MemoryLimitError
        Not even one worker fits; the text names the limit that would do.

    """
    room = allowed_bytes - reserved_bytes - MARGIN_BYTES
    count = min(workers, room // (task_bytes + WORKER_OVERHEAD_BYTES))
    if count >= 1:
        return Budget(allowed_bytes, reserved_bytes, task_bytes, count)
    budget = Budget(allowed_bytes, reserved_bytes, task_bytes, 1)
    needed_mib = least(reserved_bytes, task_bytes) // _MIB
    raise MemoryLimitError(
        f"memory limit {format_size(allowed_bytes)} is too small for this work",
        f"at least {needed_mib} MiB ({format_size(reserved_bytes)} for the program, "
        f"{format_size(budget.projected_bytes - reserved_bytes)} for one task)",
        f"pass --memory {needed_mib}MiB or more",
    )
