"""Killing the workers of a Dask cluster, the command that hands parts out, and ranks of MPI, at random instants.

A round starts one command and kills workers or ranks while it runs; in some, whoever publishes is killed while it does.
Between rounds, everything that no journal lists is overwritten with garbage, as in `tests.part_kills`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from dovetail.engine import RunOptions, make_vectors, merge
from dovetail.engine.actions import hand_out
from dovetail.engine.errors import WorkerLostError
from dovetail.engine.output.staging import staging_path
from dovetail.engine.run.lock import LOCK_NAME, Hold, hold_lock
from tests.crash import CrashCase, small_tasks
from tests.dask_commands import scheduler, workers
from tests.mpi_launch import Launcher
from tests.pace import HANGS_S
from tests.part_kills import Child, Killer, Tally, tell_at_publishing
from tests.parts import end, start

WORKERS = 4
"""Worker processes of Dask, and ranks of MPI."""

GAVE_UP = 5
"""Exit code of a command that has lost too many workers."""

ENDS_S = 60.0
"""Seconds within which MPI must end all ranks after one has died, with a machine that is slow allowed for."""

_SMALL = "from tests.crash import small_tasks\nsmall_tasks()\n"
"""What each worker of Dask does first."""


class ClusterKiller(Killer):
    """Kills processes of a command with several workers, which is run again until the output is there.

    Parameters
    ----------
    folder, case, seed
        As for `Killer`.

    """

    def __init__(self, folder: Path, case: CrashCase, seed: int) -> None:
        super().__init__(folder, case, seed, (1,), None)

    def _wait(self, seconds: float) -> None:
        """Wait for some share of the time that a command takes."""
        time.sleep(seconds * self.longest)

    def _scribble(self) -> None:
        """Wait until nobody works any more, and overwrite every chunk that no journal lists."""
        staging, began = staging_path(self.output), time.monotonic()
        while staging.exists():
            with hold_lock(staging / LOCK_NAME) as hold:
                if hold is Hold.OURS:
                    super()._scribble()
                    return
            assert time.monotonic() - began < HANGS_S, "workers go on, though their command has ended"
            time.sleep(0.02)

    def _pids(self, parent: int, word: str) -> list[int]:
        """Give the processes below another one that have a word in their command."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(parent).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if word in " ".join(process.cmdline()):
                        found.append(process.pid)
        return found

    def _strike(self, pids: list[int]) -> None:
        """Kill processes."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.tally.workers += 1
                self.tally.killed += 1


class DaskKiller(ClusterKiller):
    """Kills workers of a Dask cluster, which are started again, and the command that uses them.

    Parameters
    ----------
    folder, case, seed
        As for `Killer`.
    address
        The scheduler's.
    parent
        The process that starts workers.

    """

    def __init__(self, folder: Path, case: CrashCase, seed: int, address: str, parent: int) -> None:
        self.address, self.parent = address, parent
        super().__init__(folder, case, seed)
        began = time.monotonic()
        self._complete(folder / "timed-again", 1)  # now workers have loaded what they need
        self.longest = time.monotonic() - began
        self.publishing = 0.2 * self.longest

    def _command(self, output: Path, tell: int | None = None) -> Child:
        """Start a process that hands parts out, in a process of its own."""

        def work() -> None:
            hand_out.parts_for = lambda moved_bytes, workers: 4 * workers
            if tell is not None:
                tell_at_publishing(tell)
            run = RunOptions(executor=self.address, overwrite=self.replaces)
            try:
                (make_vectors if self.case.vectors == "make" else merge)(self.subject, output, self.case.options, run)
            except WorkerLostError:
                os._exit(GAVE_UP)

        return Child(start(work), "by Dask", 0)

    def _complete(self, output: Path, count: int) -> None:
        while (code := end(self._command(output).number)) == GAVE_UP:  # workers are still being started again
            self.tally.gave_up += 1
        assert code == 0, "the command failed by itself"

    def round(self) -> None:
        """Run the command once, and kill workers, all of them or the command itself meanwhile."""
        late, often = self.dice.random() < 0.4, self.dice.randint(1, 3)
        reader, writer = os.pipe()
        children = [self._command(self.output, writer)]
        self.tally.started += 1
        for _ in range(0 if late and often > 1 else often):
            self._wait(self.dice.random() ** 2)
            pids = self._pids(self.parent, "spawn_main")
            self._strike(pids if self.dice.random() < 0.15 else self.dice.sample(pids, min(1, len(pids))))
        if late:
            self._kill_publisher(children, reader)
        elif self.dice.random() < 0.4:
            self._wait(self.dice.random())
            self._kill(children.pop(), [])
        for child in children:
            code = end(child.number)
            assert code in (0, GAVE_UP), "the command failed by itself"
            self.tally.gave_up += code == GAVE_UP
        os.close(reader)
        os.close(writer)
        self._scribble()
        self._look()


class MpiKiller(ClusterKiller):
    """Kills ranks, or the program that starts them; MPI must end all others then.

    Parameters
    ----------
    folder, case, seed
        As for `Killer`.
    launcher
        What starts ranks.
    ranks
        How many.

    """

    def __init__(self, folder: Path, case: CrashCase, seed: int, launcher: Launcher, ranks: int) -> None:
        self.launcher, self.ranks, self.pipe = launcher, ranks, folder / "pipe"
        os.mkfifo(self.pipe)
        self.reader = os.open(self.pipe, os.O_RDWR | os.O_NONBLOCK)
        super().__init__(folder, case, seed)

    def _command(self, output: Path) -> int:
        """Start ranks; give the process that has started them."""
        replaces = "yes" if self.replaces else "no"
        what = ("-m", "tests.mpi_rank", self.case.name, self.subject, output, self.pipe, replaces)
        command = self.launcher.command(self.ranks, *what)

        def work() -> None:
            nowhere, log = (
                os.open(os.devnull, os.O_RDONLY),
                os.open(self.folder / "ranks.log", os.O_WRONLY | os.O_CREAT),
            )
            for stream, descriptor in enumerate((nowhere, log, log)):
                os.dup2(descriptor, stream)
            os.execve(command[0], command, self.launcher.environment())

        return start(work)

    def _complete(self, output: Path, count: int) -> None:
        code = end(self._command(output))
        assert code == 0, f"ranks failed by themselves: {(self.folder / 'ranks.log').read_text()}"
        self._drain()

    def _drain(self) -> None:
        """Forget who has begun to publish."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.reader, 1 << 16)

    def round(self) -> None:
        """Run the command once, and kill one rank, or the launcher, at some instant, or whoever publishes."""
        late, launcher_too = self.dice.random() < 0.4, self.dice.random() < 0.2
        mpiexec = self._command(self.output)
        self.tally.started += 1
        ranks: list[int] = []
        if late:
            self._await_publisher(mpiexec)
            with contextlib.suppress(BlockingIOError):
                ranks = [int.from_bytes(os.read(self.reader, 4), "little")]
                time.sleep(self.dice.random() * 0.1 * self.publishing)
        else:
            self._wait(self.dice.uniform(0.2, 1.0))
            found = self._pids(mpiexec, "tests.mpi_rank")
            ranks = [mpiexec] if launcher_too else self.dice.sample(found, min(1, len(found)))
        struck = [rank for rank in ranks if psutil.pid_exists(rank)]
        self._strike(struck)
        self._end(mpiexec, killed=bool(struck))
        self.tally.publishing += late and bool(struck)
        self._drain()
        self._scribble()
        self._look()

    def _await_publisher(self, mpiexec: int) -> None:
        """Wait until a rank begins to publish, or all have ended."""
        while not select.select([self.reader], [], [], 0.05)[0]:
            if not self._pids(mpiexec, "tests.mpi_rank") and os.waitid(
                os.P_PID, mpiexec, os.WEXITED | os.WNOHANG | os.WNOWAIT
            ):
                return

    def _end(self, mpiexec: int, *, killed: bool) -> None:
        """Wait for the launcher; after a kill, it must not take long."""
        began = time.monotonic()
        while killed and not os.waitid(os.P_PID, mpiexec, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            assert time.monotonic() - began < ENDS_S, "MPI goes on, though a rank has died"
            time.sleep(0.01)
        code = end(mpiexec)
        assert killed or code == 0, f"ranks failed by themselves: {(self.folder / 'ranks.log').read_text()}"


@contextlib.contextmanager
def dask_site(folder: Path) -> Iterator[tuple[str, int]]:
    """Start a Dask cluster by its commands; give its address, and the process that starts its workers."""
    folder.mkdir()
    preload = folder / "preload.py"
    preload.write_text(_SMALL)
    with (
        scheduler(folder, "--host", "127.0.0.1") as address,
        workers(folder, address, WORKERS, "--preload", str(preload)) as parent,
    ):
        yield address, parent.pid


def kill_until(killer: ClusterKiller, kills: int) -> Tally:
    """Make a case again and again, killing workers, until so many are killed; check every output."""
    while killer.tally.killed < kills:
        killer.round()
    killer.finish()
    return killer.tally


def kill_workers(folder: Path, case: CrashCase, kills: int, seed: int) -> Tally:
    """Do so by Dask, in this process."""
    small_tasks()
    with dask_site(folder / "site") as (address, parent):
        return kill_until(DaskKiller(folder, case, seed, address, parent), kills)


def kill_ranks(folder: Path, case: CrashCase, kills: int, seed: int, launcher: Launcher, ranks: int = WORKERS) -> Tally:
    """Do so by MPI."""
    small_tasks()
    return kill_until(MpiKiller(folder, case, seed, launcher, ranks), kills)
