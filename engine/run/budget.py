"""Choosing how many workers fit within the memory limit, and refusing a plan when not even one does.

`allowed_bytes` is the limit on the memory of the whole process. `reserved_bytes` is what the process holds before the
first task: interpreter, libraries, compiled kernels and the plan itself, as measured. `projected_bytes` is the most
that the process will hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from dovetail.engine.errors import MemoryLimitError
from dovetail.engine.planning.grid import OPEN_JOBS
from dovetail.engine.text import format_size
from dovetail.io.files.machine import available_bytes

DEFAULT_LIMIT_BYTES = 2 * 2**30
"""Most memory that a merge is allowed by default, unless it needs more."""

LARGEST_SHARE = 0.85
"""Largest fraction of the free memory that the default limit may take."""

WORKER_OVERHEAD_BYTES = 2 * 2**20
"""Allowance per worker for its stack, allocator arena and Python objects."""

MARGIN_BYTES = 8 * 2**20
"""Allowance for what grows during a run: records, the progress display, and memory that the allocator keeps."""

TENSOR_BYTES = 512
"""Allowance per tensor for the event that lists its checksums, or for its result in a comparison."""

_MIB = 2**20


def default_limit_bytes(least_bytes: int = 0) -> int:
    """Choose a limit: half of the free memory, at most `DEFAULT_LIMIT_BYTES`, but what the merge needs if that is more.

    Parameters
    ----------
    least_bytes
        What the merge needs; the limit grows to it up to `LARGEST_SHARE` of the free memory.

    """
    free = available_bytes()
    return max(min(DEFAULT_LIMIT_BYTES, free // 2), min(least_bytes, int(LARGEST_SHARE * free)))


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory that a run may use, and what it will use it for."""

    allowed_bytes: int
    """Limit on the memory of the process."""
    reserved_bytes: int
    """Memory that the process holds before the first task."""
    task_bytes: int
    """Most memory that one running task adds: mapped input windows, output buffer, scratch space, the partial result
    of its reduce pass and another one that waits to be folded."""
    workers: int
    """Tasks that run at once."""
    shared_bytes: int = 0
    """Most memory that decoded chunks take which several tasks use."""
    open_jobs: int = OPEN_JOBS
    """Jobs that may be open at once, each with an accumulator."""
    frugal: bool = False
    """Whether the plan's programs must be frugal to fit, as `Program.frugal` says."""
    held_bytes: int = 0
    """Most memory that each of these jobs takes to hold what a pass has decided, so as not to compute it again."""

    @property
    def projected_bytes(self) -> int:
        """Most memory that the process will hold."""
        tasks = self.workers * (self.task_bytes + WORKER_OVERHEAD_BYTES)
        return self.reserved_bytes + tasks + self.shared_bytes + self.open_jobs * self.held_bytes + MARGIN_BYTES

    @property
    def unwritten_bytes(self) -> int:
        """Most output that waits in the page cache for the disk; little under a small limit, lest a cgroup stalls."""
        return max(16 * _MIB, min(256 * _MIB, (self.allowed_bytes - self.reserved_bytes) // 4))


def least(reserved_bytes: int, task_bytes: int) -> int:
    """Give the smallest limit, rounded up to 16 MiB, within which one worker fits."""
    needed = Budget(0, reserved_bytes, task_bytes, 1).projected_bytes
    return -(-needed // (16 * _MIB)) * 16 * _MIB


def fit(allowed_bytes: int, reserved_bytes: int, task_bytes: int, workers: int) -> Budget:
    """Find the greatest number of workers, at most `workers`, with which the projection stays within the limit.

    Raises
    ------
    MemoryLimitError
        Not even one worker fits; the message names a limit that is enough.

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
