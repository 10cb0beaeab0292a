"""Measure whole processes: time, processor time and memory, with the page cache in a known state."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgroup import Group

SAMPLE_S = 0.02
"""Time between two looks at a process's memory."""


class CommandError(RuntimeError):
    """A measured command failed."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one process used, from its start to its end."""

    wall_s: float
    user_s: float
    system_s: float
    peak_rss_bytes: int
    """Greatest resident set, pages of memory-mapped files included, as the kernel accounts it; that of the largest of
    the processes that it has waited for, if one of them was larger."""
    peak_own_bytes: int
    """The same of the process itself (sampled)."""
    peak_anonymous_bytes: int
    """Greatest part of it that belongs to no file (sampled)."""
    peak_file_bytes: int
    """Greatest part of it that is pages of files (sampled)."""
    group_peak_bytes: int | None
    """Greatest memory charged to its control group, page cache included; None outside a group."""
    flush_s: float
    """Time that the system then took to write what the process had left in the page cache."""
    returncode: int
    tail: str
    """The last line of its standard output."""
    errors: str = ""
    """The end of what it wrote as errors."""

    @property
    def cpu_s(self) -> float:
        """Processor time in user and kernel mode."""
        return self.user_s + self.system_s

    def to_json(self) -> dict[str, Any]:
        """Give the figures as a JSON object."""
        names = [name for name in self.__slots__ if name not in ("tail", "errors", "returncode")]
        return {name: getattr(self, name) for name in names} | {"cpu_s": self.cpu_s}


def run(
    command: Sequence[str | Path],
    *,
    group: Group | None = None,
    environment: Mapping[str, str] | None = None,
    on_start: Callable[[subprocess.Popen[str]], None] | None = None,
    on_line: Callable[[str], None] | None = None,
    may_fail: bool = False,
    flush: bool = True,
) -> Run:
    """Run a command to its end and measure it.

    The peak of ``wait4`` starts from the size of the process that starts the command, so a script that measures
    must stay smaller than what it measures: checkpoints are generated in processes of their own.

    Parameters
    ----------
    command
        Program and arguments.
    group
        Control group to run in; the process enters it before its first own instruction.
    environment
        Variables to add to this process's.
    on_start
        Called with the process, for whoever may have to stop it.
    on_line
        Called with every line of standard output, on a thread of its own.
    may_fail
        Whether a failure is a result instead of an error.
    flush
        Whether to wait, after it has ended, until the system has written all that is in the page cache.

    """
    words = [str(word) for word in command]
    if group is not None:
        words = ["sh", "-c", f'{group.enter_script}; exec "$@"', "sh", *words]
    tail = ""
    with tempfile.TemporaryFile("w+") as errors:
        started = time.monotonic()
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=errors, text=True, env={**_environment(), **(environment or {})}
        )
        if on_start is not None:
            on_start(process)
        sampler = _Sampler(process.pid)
        sampler.start()

        def read() -> None:
            nonlocal tail
            assert process.stdout is not None
            for line in process.stdout:
                tail = line
                if on_line is not None:
                    on_line(line)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()  # until then it holds files, and perhaps a file system that is about to be unmounted
            raise
        wall_s = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.stop()
        reader.join()
        errors.seek(0)
        said = errors.read()[-3000:]
        if process.returncode and not may_fail:
            raise CommandError(f"{' '.join(words)}\nexit code {process.returncode}\n{said}")
    started = time.monotonic()
    if flush:
        os.sync()
    return Run(
        wall_s=wall_s,
        user_s=usage.ru_utime,
        system_s=usage.ru_stime,
        peak_rss_bytes=max(usage.ru_maxrss * 1024, sampler.peaks["VmHWM"]),
        peak_own_bytes=sampler.peaks["VmHWM"],
        peak_anonymous_bytes=sampler.peaks["RssAnon"],
        peak_file_bytes=sampler.peaks["RssFile"] + sampler.peaks["RssShmem"],
        group_peak_bytes=None if group is None else group.peak_bytes(),
        flush_s=time.monotonic() - started,
        returncode=process.returncode,
        tail=tail,
        errors=said,
    )


def _environment() -> dict[str, str]:
    """Give the variables of a process that finds byte code where it has been before, as one that is installed does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class _Sampler(threading.Thread):
    """Looks at the memory of a process until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self.peaks = dict.fromkeys(("VmHWM", "RssAnon", "RssFile", "RssShmem"), 0)

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            with contextlib.suppress(OSError):
                for line in self._status.read_text().splitlines():
                    key, _, value = line.partition(":")
                    if key in self.peaks:
                        self.peaks[key] = max(self.peaks[key], int(value.split()[0]) * 1024)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def alternate(contestants: Mapping[str, Callable[[], Run]], repeats: int) -> dict[str, list[Run]]:
    """Run contestants in turn, A B A B ..., so that a change of the machine's speed meets all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            runs[name].append(contestant())
    return runs


def median(runs: Iterable[Run], figure: str) -> float:
    """Give the median of one figure of several runs."""
    return float(statistics.median(getattr(run, figure) for run in runs))


def ratios(numerator: Sequence[Run], denominator: Sequence[Run], figure: str = "wall_s") -> list[float]:
    """Divide one figure of neighbouring runs, in ascending order."""
    pairs = zip(numerator, denominator, strict=True)
    return sorted(getattr(a, figure) / getattr(b, figure) for a, b in pairs)


def files_of(folders: Iterable[Path]) -> list[Path]:
    """List the safetensors files of checkpoints."""
    return [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]


def warm(folders: Iterable[Path]) -> None:
    """Bring checkpoints into the page cache."""
    buffer = memoryview(bytearray(1 << 22))
    for path in files_of(folders):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def evict(folders: Iterable[Path]) -> None:
    """Drop the safetensors files of checkpoints from the page cache; raises as `evict_files` does."""
    evict_files(files_of(folders))


def evict_files(paths: Iterable[Path]) -> None:
    """Drop files from the page cache.

    Raises
    ------
    CommandError
        Some of it stays there.

    """
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_fraction(path) > 0.01:
            # Pages that another process has mapped stay; only the administrator can drop what remains.
            with contextlib.suppress(OSError):
                Path("/proc/sys/vm/drop_caches").write_text("1")
        if (left := cached_fraction(path)) > 0.01:
            raise CommandError(f"{path} stays in the page cache ({left:.0%}); a cold run needs it dropped: run as root")


def cached_fraction(path: Path) -> float:
    """Give the part of a file that is in the page cache."""
    size = path.stat().st_size
    if not size:
        return 0.0
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as view,
    ):
        pages = -(-size // mmap.PAGESIZE)
        resident = (ctypes.c_ubyte * pages)()
        # ctypes needs a writable mapping to take its address; it is private and never written.
        start = (ctypes.c_char * size).from_buffer(view)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(size), resident)
        del start
    if failed:
        raise CommandError(f"mincore fails for {path}")
    return sum(page & 1 for page in resident) / pages
