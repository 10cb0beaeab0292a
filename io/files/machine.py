"""Measuring the memory and cores that this process has and uses, within its control groups."""

from __future__ import annotations

import mmap
import os
from pathlib import Path


def resident_bytes() -> int:
    """Measure the memory that this process holds now, pages of memory-mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def peak_resident_bytes() -> int:
    """Give the most memory that this process has ever held, pages of memory-mapped files included."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resident_bytes()


def available_bytes() -> int:
    """Measure the memory that this process could still take: what the machine or one of its cgroups has least of."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    free += [limit - used for limit, used in _cgroup_limits()]
    return max(0, min(free))


def _cgroup_limits() -> list[tuple[int, int]]:
    """List the limit and the use, in bytes, of every memory cgroup that holds this process and has a limit."""
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
    """Read a cgroup's limit and its use, without that page cache which the system can drop; None if it has no limit."""
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
