"""Dask clusters: one job at a time is pinned to each worker process, so that slow workers are given fewer.

A worker stops its job when the client says so, when the client is gone, since the scheduler then cancels what it had
asked for, and when the worker itself is about to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from typing import Any, Final

from dovetail.engine.errors import RecipeError, WorkerLostError
from dovetail.engine.run.clusters.cluster import Job, Seat, WorkerGoneError
from dovetail.engine.run.clusters.probe import forget
from dovetail.io.extras import require
from dovetail.io.files.interrupts import check_interrupts
from dovetail.io.files.threads import POLL_S, start_thread

CONNECT_S: Final = 30.0
"""Seconds to wait for the scheduler's answer."""

_ANSWER_S: Final = 10.0
"""Seconds to wait for an answer that a worker has ready; a worker that has ended meanwhile never gives it."""

_ENDING: Final = frozenset({"closing_gracefully", "closing", "closed", "failed", "stopping", "stopped"})
"""States of a worker that is about to end."""

_WORKERLESS: Final = frozenset({"KilledWorker", "NoValidWorkerError"})
"""Names of errors of Dask's scheduler, of which versions do not have all: workers have ended while they did a job, or
the one for it is gone (``distributed.scheduler.no-workers-timeout``)."""

_CANCELLED: Final = "FutureCancelledError"
"""Name of an error of Dask, which has not had the same place and base in all of its versions."""

_MOST_WANTED: Final = 1000
"""Most workers that an adaptive cluster is asked for beyond those that are there."""

_MORE: Final = {"another-worker-of-dovetail": 1.0}
"""A resource that no worker has, so that what needs it waits."""

_stopped: set[str] = set()
"""Runs whose jobs are to stop, in a worker."""


def open_dask(executor: Any) -> DaskCluster:
    """Connect to a cluster by the address of its scheduler, or by what the user has of it; raises as `open_cluster`."""
    require("distributed", "dask", "Dask clusters")
    distributed = importlib.import_module("distributed")
    if isinstance(executor, str):  # of a command, which says itself what is wrong
        for name in ("distributed", "distributed.client"):  # to import the package sets the levels of both
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if isinstance(executor, distributed.cfexecutor.ClientExecutor):
        executor = executor._client
    if isinstance(executor, distributed.Client):
        if executor.asynchronous:
            raise RecipeError("executor is an asynchronous Client", "a Client of Dask that waits", "give another one")
        return DaskCluster(executor, ours=False)
    address = executor.replace("dask://", "tcp://", 1) if isinstance(executor, str) else executor
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        name = executor if isinstance(executor, str) else type(executor).__name__
        secured = name.startswith("tls://")
        raise WorkerLostError(
            f"the Dask scheduler {name} does not answer ({_line(error)})",
            "a scheduler that runs, and can be reached from here" + (" by these certificates" if secured else ""),
            "start one by 'dask scheduler', or correct the address"
            + (", or the certificates in Dask's configuration (distributed.comm.tls)" if secured else ""),
        ) from error
    return DaskCluster(client, ours=True)


class DaskCluster:
    """The workers of a client's scheduler.

    Parameters
    ----------
    client
        A synchronous client.
    ours
        Whether the client was made for this run, and is closed with it.

    """

    asks = True

    def __init__(self, client: Any, *, ours: bool) -> None:
        self._client, self._ours = client, ours
        self._wanted: list[Any] = []
        self.name = str(client.scheduler.address) if client.scheduler else "Dask"

    def workers(self) -> list[str]:
        """Name the workers by their addresses; raises a WorkerLostError if the scheduler does not answer."""
        try:
            if self._client.status != "running":
                raise OSError(f"its client is {self._client.status}")
            return sorted(self._ask_scheduler())
        except (OSError, RuntimeError, TimeoutError) as error:
            raise WorkerLostError(
                f"the Dask scheduler {self.name} does not answer any more ({_line(error)})",
                "a scheduler that lives until the end",
                "start the cluster again, and run the same command again to continue",
            ) from error

    def _ask_scheduler(self) -> dict[str, int]:
        """Ask who is there; a scheduler that hangs is not waited for without an end, nor without answering Ctrl-C."""
        began = time.monotonic()
        asked = asyncio.run_coroutine_threadsafe(self._client.scheduler.ncores(), self._client.loop.asyncio_loop)
        while not wait([asked], timeout=POLL_S).done:
            if time.monotonic() - began > CONNECT_S:
                asked.cancel()
                raise TimeoutError(f"no word in {CONNECT_S:,.0f} s")
            check_interrupts()
        found: dict[str, int] = asked.result()
        return found

    def start(self, worker: str, job: Job, request: Any, wake: Callable[[], None]) -> _Started:
        """Give a worker a job, and no other worker."""
        key = _key()
        future = self._client.submit(
            _do, job, request, key, key=key, workers=[worker], allow_other_workers=False, pure=False, retries=0
        )
        future.add_done_callback(lambda _: wake())
        return _Started(future)

    def want(self, workers: int) -> None:
        """Let so many tasks wait that no worker can do: an adaptive cluster counts them, and starts workers."""
        if self._client.status != "running":
            return
        workers = min(workers, _MOST_WANTED)
        while len(self._wanted) < workers:
            future = self._client.submit(_nothing, key=_key(), resources=_MORE, pure=False)
            self._wanted.append(future)
        for future in self._wanted[workers:]:
            future.cancel()
        del self._wanted[workers:]

    def stop(self, run: str) -> None:
        """Tell the workers, beside the jobs that they are doing."""
        self._tell(_stopped.add, run)

    def close(self) -> None:
        """Let workers forget plans, and close the client if it was made for this run."""
        with contextlib.suppress(Exception):  # whatever a client that is closed meanwhile makes of it
            self.want(0)
        self._tell(forget)
        if self._ours:
            with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                self._client.close(timeout=_ANSWER_S)

    def _tell(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function in every worker soon, whatever these do, and go on if some do not answer."""
        if self._client.status != "running":
            return
        teller = threading.Thread(target=self._run, args=(function, *arguments), daemon=True)
        start_thread(teller)
        teller.join(_ANSWER_S)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._client.run(_tell_here, function.__name__, *arguments, on_error="ignore")
        except Exception:  # whatever a cluster that is gone makes of it: nothing is left to be told
            logging.getLogger(__name__).debug("workers could not be told", exc_info=True)


class _Started:
    """A job whose answer a future of Dask gives."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def done(self) -> bool:
        """Whether the job has ended."""
        return bool(self._future.done())

    def result(self) -> Any:
        """Give its answer; raises as `Started.result`."""
        try:
            return self._future.result(timeout=_ANSWER_S)
        except Exception as error:
            if self._is_gone(error):
                raise WorkerGoneError(_line(error)) from error
            raise

    def _is_gone(self, error: Exception) -> bool:
        """Whether Dask says by an error that the worker or the job is gone, and the job itself has not raised it.

        A job can raise any error of the same types, such as a TimeoutError of a file system.
        """
        if type(error).__name__ in _WORKERLESS and type(error).__module__ == "distributed.scheduler":
            return True
        if self._future.status == "error":
            return False
        closed = isinstance(error, OSError) and type(error).__module__.startswith("distributed")  # a connection
        return closed or isinstance(error, CancelledError | TimeoutError) or type(error).__name__ == _CANCELLED

    def forsake(self) -> None:
        """Cancel it, which the worker's job notices."""
        self._future.cancel()


def _key() -> str:
    """Name a task; Dask takes tasks whose names begin in the same way to last as long as each other."""
    return f"dovetail-{uuid.uuid4().hex}"


def _nothing() -> None:
    """Be a task that waits for a worker."""


def _tell_here(name: str, *arguments: Any) -> None:
    """Call one of two functions in a worker."""
    if name == "add":
        _stopped.add(*arguments)
    else:
        forget()


def _do(job: Job, request: Any, key: str) -> Any:
    """Do a job in a worker."""
    worker = importlib.import_module("distributed").get_worker()
    run = getattr(request, "run", "")

    def stopped() -> bool:
        task = worker.state.tasks.get(key)
        forgotten = task is None or task.state == "cancelled"
        return run in _stopped or forgotten or worker.status.name in _ENDING

    limit = worker.memory_manager.memory_limit
    name = f"{worker.address} on {socket.gethostname()}"
    return job(request, Seat(name, worker.state.nthreads, 1, limit or None, stopped))


def _line(error: BaseException) -> str:
    """Write an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
