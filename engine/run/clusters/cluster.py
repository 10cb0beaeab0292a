"""What handing out parts needs of a cluster: who its workers are, and jobs that one of them does at a time.

Jobs are functions of this package with one request. They are sent by reference, so that a worker must have the same
version of the package, and give an answer that says nothing of the tensors, which go through files alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class WorkerGoneError(Exception):
    """The worker that did a job has ended, or the cluster has forgotten the job: another one can do it again."""


@dataclass(frozen=True, slots=True)
class Seat:
    """What a job knows of the worker that does it."""

    name: str
    """Name of the worker, for messages."""
    threads: int
    """Threads that it has for the job."""
    processes: int
    """Workers on its machine, as far as it knows of them."""
    memory_limit_bytes: int | None
    """Memory at which the cluster ends the worker; None if it does not watch that."""
    stopped: Callable[[], bool]
    """Says whether the job is to stop soon, because nobody wants its result any more."""


Job = Callable[[Any, Seat], Any]
"""A function that does what a request asks; requests and answers can be pickled."""


class Started(Protocol):
    """A job that a worker has been given."""

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        ...

    def result(self) -> Any:
        """Give its answer.

        Raises
        ------
        WorkerGoneError
            The worker has ended before.
        Exception
            What the job has raised.

        """
        ...

    def forsake(self) -> None:
        """Tell the cluster that nobody waits for the answer any more."""
        ...


class Cluster(Protocol):
    """Workers that can be given jobs, one at a time each."""

    name: str
    """What people call it."""
    asks: bool
    """Whether a job can be given to a worker of one's choice, so that each can be asked what it is before any works."""

    def workers(self) -> list[str]:
        """Name the workers that are there now.

        Raises
        ------
        WorkerLostError
            Whoever knows them does not answer.

        """
        ...

    def start(self, worker: str, job: Job, request: Any, wake: Callable[[], None]) -> Started:
        """Give a worker a job; `wake` is called, on any thread, when it has ended."""
        ...

    def want(self, workers: int) -> None:
        """Say for how many more workers there is work: some clusters start workers by demand, and none without it."""
        ...

    def stop(self, run: str) -> None:
        """Ask all workers to stop the jobs of a run soon."""
        ...

    def close(self) -> None:
        """Let workers forget what they keep for the run, and leave the cluster as it was found."""
        ...
