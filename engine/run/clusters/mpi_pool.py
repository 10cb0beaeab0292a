"""Pools of MPI processes, as mpi4py.futures starts them: whichever rank is idle does the next job.

In the pool of ``python -m mpi4py.futures``, the rank that hands jobs out does jobs too, on a thread of its own: it has
cores like any other, and handing out takes next to nothing.

A rank that dies takes all others along, so that no loss of a worker is survived; the same command continues. Ranks are
asked to stop by a file beside the plan, as they take no message while they work.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from dovetail.engine.errors import RecipeError, WorkerLostError
from dovetail.engine.run.clusters.cluster import Job, Seat
from dovetail.engine.run.parts.launch import processes_here, threads_here
from dovetail.io.extras import require
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.smallfile import is_named

_HERE: Final = "this process"
"""Name of the rank that hands jobs out, as a worker."""

_LOOK_S: Final = 0.3
"""Seconds between two looks for the file that says that a run is stopped."""


def wake_pool(modules: Sequence[str]) -> None:
    """Let the ranks of ``python -m mpi4py.futures`` import what they will need, while this process plans.

    Nothing is waited for. A module that a rank cannot import is missed again by its first job, which says so.
    """
    comm = importlib.import_module("mpi4py.MPI").COMM_WORLD
    executor = importlib.import_module("mpi4py.futures").MPIPoolExecutor()
    for _ in range(1, comm.Get_size()):
        executor.submit(_load, tuple(modules))
    executor.shutdown(wait=False)


def _load(modules: Sequence[str]) -> None:
    """Import modules in a rank, which will end with the pool, and need not look for garbage then."""
    with collector_paused():
        for name in modules:
            importlib.import_module(name)
    atexit.register(gc.freeze)


def open_pool(executor: Any) -> MpiPool:
    """Use a pool that the user gives, or that of ``python -m mpi4py.futures``; raises as `open_cluster` does."""
    require("mpi4py", "mpi", "merges by MPI")
    futures: Any = importlib.import_module("mpi4py.futures")
    if executor is not None:
        return MpiPool(executor, ours=False)
    if importlib.import_module("mpi4py.futures._core").SharedPool is None:
        raise RecipeError(
            "executor is mpi, and no process of MPI waits for work",
            "a command that mpi4py.futures has started",
            "run mpiexec -n N python -m mpi4py.futures -m dovetail merge ..., or leave out --executor and run "
            "mpiexec -n N dovetail merge ...",
        )
    return MpiPool(futures.MPIPoolExecutor(), ours=True)


class MpiPool:
    """The ranks of a pool.

    Parameters
    ----------
    executor
        The pool.
    ours
        Whether it was opened for this run, and is closed with it.

    """

    name = "MPI"
    asks = False

    def __init__(self, executor: Any, *, ours: bool) -> None:
        self._executor, self._ours = executor, ours
        self._stop: list[Path] = []
        executor.bootup(wait=True)
        if not executor.num_workers:
            raise RecipeError("the pool of MPI has no worker", "two ranks or more", "start more: mpiexec -n N")
        shared = ours and importlib.import_module("mpi4py.MPI").COMM_WORLD.Get_size() > 1
        self._here = ThreadPoolExecutor(1, "dovetail-part") if shared else None

    def workers(self) -> list[str]:
        """Name the places for jobs; which rank does a job is not ours to say, but for this one, the last."""
        others = [f"worker {number}" for number in range(1, self._executor.num_workers + 1)]
        return others if self._here is None else [*others, _HERE]

    def start(self, worker: str, job: Job, request: Any, wake: Callable[[], None]) -> _Started:
        """Give a job to whichever rank is idle, or to this one."""
        self._stop = [_stop_path(request)]
        chosen = self._here if worker == _HERE and self._here is not None else self._executor
        future = chosen.submit(_do, job, request)
        future.add_done_callback(lambda _: wake())
        return _Started(future)

    def want(self, workers: int) -> None:
        """Do nothing: a pool keeps the ranks that it was started with."""

    def stop(self, run: str) -> None:
        """Write the file that the ranks look for."""
        for path in self._stop:
            path.touch()

    def close(self) -> None:
        """Close the pool if it was opened for this run."""
        if self._here is not None:
            self._here.shutdown(wait=True)
        for path in self._stop:
            path.unlink(missing_ok=True)
        if self._ours:
            self._executor.shutdown(wait=True)


class _Started:
    """A job whose answer a future gives."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def done(self) -> bool:
        """Whether the job has ended."""
        return self._future.done()

    def result(self) -> Any:
        """Give its answer; raises a WorkerLostError if the pool is broken."""
        try:
            return self._future.result()
        except (BrokenExecutor, CancelledError) as error:
            raise WorkerLostError(
                "the pool of MPI has ended", "ranks that live until the end", "run the same command again to continue"
            ) from error

    def forsake(self) -> None:
        """Cancel the job if no rank has begun it."""
        self._future.cancel()


def _stop_path(request: Any) -> Path:
    """Give the file that says that a run is stopped."""
    return Path(request.plan_path).with_name(f"stop.{request.run}")


def _do(job: Job, request: Any) -> Any:
    """Do a job in a rank."""
    path, looked, found = _stop_path(request), 0.0, False

    def stopped() -> bool:
        nonlocal looked, found
        if not found and time.monotonic() - looked >= _LOOK_S:
            found, looked = is_named(path), time.monotonic()
        return found

    rank = importlib.import_module("mpi4py.MPI").COMM_WORLD.Get_rank()
    name = f"rank {rank} on {socket.gethostname()}"
    return job(request, Seat(name, threads_here(), processes_here(), None, stopped))
