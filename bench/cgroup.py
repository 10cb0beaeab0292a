"""Control groups for a measured process: a bound on its memory, or on the speed of the disk it reads from.

Both versions of Linux control groups are used as the machine has them. Making a group needs the rights to do so
(the administrator's, as a rule); where it cannot be made, `GroupError` says why.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAME = "dovetail-bench"


class GroupError(RuntimeError):
    """The machine does not allow the control group that a measurement needs."""


@dataclass(frozen=True, slots=True)
class Group:
    """A control group of one measurement."""

    folder: Path
    """Its folder in the control group file system."""
    peak_file: str | None
    """File that gives the greatest memory charged to it; None if its memory is not bound."""

    @property
    def enter_script(self) -> str:
        """Give the shell command by which a process enters the group."""
        return f"echo $$ > {self.folder}/cgroup.procs"

    def peak_bytes(self) -> int | None:
        """Give the greatest memory charged to the group, page cache included."""
        if self.peak_file is None or not (self.folder / self.peak_file).exists():
            return None
        return int((self.folder / self.peak_file).read_text())

    def killed(self) -> int:
        """Give the number of its processes that the system has killed for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            if (self.folder / name).exists():
                lines = (line.split() for line in (self.folder / name).read_text().splitlines())
                return next((int(value) for key, value in lines if key == "oom_kill"), 0)
        return 0


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Group]:
    """Make a group whose processes, with their page cache, hold at most ``limit_bytes``; swap is not allowed.

    Raises
    ------
    GroupError
        The machine does not allow it.

    """
    folder, version = _make("memory")
    try:
        if version == 1:
            settings = {"memory.limit_in_bytes": limit_bytes, "memory.memsw.limit_in_bytes": limit_bytes}
        else:
            settings = {"memory.max": limit_bytes, "memory.swap.max": 0}
        _write(folder, {key: str(value) for key, value in settings.items() if (folder / key).exists()})
        yield Group(folder, "memory.max_usage_in_bytes" if version == 1 else "memory.peak")
    finally:
        _remove(folder)


@contextlib.contextmanager
def read_speed_group(path: Path, bytes_per_s: int) -> Iterator[Group]:
    """Make a group whose processes read at most so fast from the disk that holds ``path``.

    Raises
    ------
    GroupError
        The machine does not allow it.

    """
    folder, version = _make("blkio" if version_of("blkio") == 1 else "io")
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        if version == 1:
            _write(folder, {"blkio.throttle.read_bps_device": f"{number} {bytes_per_s}"})
        else:
            _write(folder, {"io.max": f"{number} rbps={bytes_per_s}"})
        yield Group(folder, None)
    finally:
        _remove(folder)


def version_of(controller: str) -> int:
    """Tell which version of control groups has a controller: 1 if it is mounted on its own, else 2."""
    return 1 if Path("/sys/fs/cgroup", controller, "cgroup.procs").exists() else 2


def _make(controller: str) -> tuple[Path, int]:
    version = version_of(controller)
    root = Path("/sys/fs/cgroup", controller) if version == 1 else Path("/sys/fs/cgroup")
    own = "/"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == ("" if version == 2 else controller):
            own = path
    # In version 2 a group with processes has no bounded children, so the new group stands beside this one.
    parent = root / own.lstrip("/")
    if version == 2 and parent != root:
        parent = parent.parent
    folder = parent / f"{NAME}-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise GroupError(f"a control group cannot be made in {parent}: {error}") from error
    if version == 2 and controller not in (folder / "cgroup.controllers").read_text().split():
        folder.rmdir()
        raise GroupError(f"the control groups in {parent} have no {controller} controller")
    return folder, version


def _write(folder: Path, settings: dict[str, str]) -> None:
    try:
        for key, value in settings.items():
            (folder / key).write_text(value)
    except OSError as error:
        raise GroupError(f"{folder}/{key} cannot be set: {error}") from error


def _remove(folder: Path) -> None:
    """Remove a group; the kernel may hold it for a moment after its last process has ended."""
    for _ in range(50):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return
