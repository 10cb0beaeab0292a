"""How much memory there is, how much this process holds, and whether a plan fits.

The words: `allowed_bytes` is the limit on the whole process, `reserved_bytes` what it holds before the first task
(interpreter, libraries, compiled kernels, the plan itself: measured), `projected_bytes` what it will hold at most.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from dovetail.engine.errors import MemoryLimitError
from dovetail.engine.sizes import format_size

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


def resident_bytes() -> int:
    """Memory that this process holds now, pages of memory-mapped files included."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """Most memory that this process has ever held, pages of memory-mapped files included."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resident_bytes()


def available_bytes() -> int:
    """Memory that this process could still take: of the machine, or of its cgroup where that has less."""
    free = [int(psutil.virtual_memory().available)]
    free += [limit - used for limit, used in _cgroup_limits()]
    return max(0, min(free))


def default_limit_bytes(least_bytes: int = 0) -> int:
    """Half of what is free, at most `DEFAULT_LIMIT_BYTES`; more where a merge needs it and it is there.

    Parameters
    ----------
    least_bytes
        What the merge needs; it is allowed as long as it leaves a part of the free memory.

    """
    free = available_bytes()
    return max(min(DEFAULT_LIMIT_BYTES, free // 2), min(least_bytes, int(LARGEST_SHARE * free)))


def _cgroup_limits() -> list[tuple[int, int]]:
    """Give (limit, working set) in bytes of every memory cgroup that holds this process and has a limit."""
    found: list[tuple[int, int]] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = Path("/sys/fs/cgroup/memory")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        while True:
            limit = _read_limit(folder, *names)
            if limit is not None:
                found.append(limit)
            if folder in (root, folder.parent):
                break
            folder = folder.parent
    return found


def _read_limit(folder: Path, limit_name: str, usage_name: str, cache_key: str) -> tuple[int, int] | None:
    """Read one cgroup's limit and its use without the page cache that it can drop."""
    try:
        limit = int((folder / limit_name).read_text())
        used = int((folder / usage_name).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return (limit, max(0, used - int(stat.get(cache_key, 0)))) if limit < 2**60 else None


def usable_cores() -> int:
    """Give the number of processor cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Budget:
    """A plan's memory under a limit."""

    allowed_bytes: int
    """The limit."""
    reserved_bytes: int
    """Held before the first task."""
    task_bytes: int
    """Most that one running task adds: mapped input windows, output buffer, scratch."""
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
