"""What a worker is asked before it makes a part: which versions it has, and whether it sees the same files.

The plan is read from a file beside the output that is made, by which a worker shows that it sees this place, and not
just one of the same name. The file's digest comes with the request, so that nobody can put another plan there.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import pickle
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

from dovetail.engine.errors import MemoryLimitError, OutputError, WorkerVersionError
from dovetail.engine.kernels.cache import SOURCES
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.clusters.cluster import Seat
from dovetail.engine.text import format_size
from dovetail.io.errors import CheckpointError
from dovetail.io.files.durable import write_durably
from dovetail.io.files.machine import available_bytes

_TERMINATE: float = 0.95
"""Share of its limit at which Dask ends a worker."""


@dataclass(frozen=True, slots=True)
class Question:
    """What every worker is asked first."""

    run: str
    """Name of the run."""
    plan_path: str
    """File with the plan, which every worker must see; empty if there is none yet."""
    plan_digest: str
    """SHA-256 of the file."""
    versions: dict[str, str]
    """Versions that the client has, by package."""
    memory_bytes: int | None
    """Limit on the memory of each worker process; None for a fair share of what is free."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of itself."""

    host: str
    """Its machine."""
    threads: int
    """Threads that it has for jobs."""
    memory_limit_bytes: int | None
    """Memory at which the cluster ends it; None if it never does."""
    available_bytes: int
    """Memory that is free on its machine."""


def versions() -> dict[str, str]:
    """Give the versions that must be the same everywhere."""
    found = {name: importlib.metadata.version(name) for name in ("dovetail", "numpy", "numba")}
    return {**found, "kernels": SOURCES, "Python": platform.python_version()}


def ask(question: Question, seat: Seat) -> Answer:
    """Answer for a worker.

    Raises
    ------
    WorkerVersionError
        It has another version of something.
    OutputError, CheckpointError
        It does not see the folder of the output, or the inputs, as the client does.
    MemoryLimitError
        The cluster would end it before the memory limit is reached.

    """
    check_versions(question.versions, seat)
    if question.plan_path:
        _check_files(load_plan(question.plan_path, question.plan_digest, seat), seat)
    allowed, limit = question.memory_bytes, seat.memory_limit_bytes
    if allowed and limit and allowed > _TERMINATE * limit:
        raise MemoryLimitError(
            f"--memory {format_size(allowed)} is more than worker {seat.name} may take, which is ended at "
            f"{_TERMINATE:.0%} of {format_size(limit)}",
            "less than that",
            "pass a smaller --memory, or start workers with a larger --memory-limit",
        )
    return Answer(socket.gethostname(), seat.threads, limit, available_bytes())


def _check_files(plan: Plan, seat: Seat) -> None:
    """Make sure that a worker sees the inputs as the client does."""
    for checkpoint in plan.checkpoints:
        try:
            checkpoint.check_unchanged()
        except (CheckpointError, OSError) as error:
            raise CheckpointError(
                f"worker {seat.name} does not see the inputs as the client does: {_what(error)}",
                "the same files under the same paths, with the same sizes and times, on every machine",
                "mount them there, or give paths that all machines have",
            ) from error


def check_versions(wanted: dict[str, str], seat: Seat) -> None:
    """Refuse to work with other versions than the client's; raises a WorkerVersionError that names the first."""
    found = versions()
    for name, version in wanted.items():
        if found.get(name) != version:
            raise WorkerVersionError(
                f"worker {seat.name} has {name} {found.get(name)}",
                f"{version}, as the client has",
                "install the same versions on all machines, and start the workers again",
            )


def save_plan(plan: Plan, folder: Path, run: str) -> tuple[str, str]:
    """Write a plan for all workers, durably; give the file's path and digest.

    A worker that is this process needs not read it, until `forget` is called.
    """
    text, path = pickle.dumps(plan, pickle.HIGHEST_PROTOCOL), folder / f"plan.{run}"
    write_durably(path, text)
    digest = hashlib.sha256(text).hexdigest()
    _plans[digest] = plan
    return str(path), digest


_plans: dict[str, Plan] = {}
"""The plan that this worker has read last, or this client has written, by its digest."""


def load_plan(path: str, digest: str, seat: Seat) -> Plan:
    """Read the plan of a run, once in each worker.

    Raises
    ------
    OutputError
        The file is not there, or is another one.

    """
    if digest in _plans:
        return _plans[digest]
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise OutputError(
            f"worker {seat.name} does not see the folder of the output: {error.strerror} ({path})",
            "the same folders under the same paths on every machine",
            "give an output folder that all machines share",
        ) from error
    if hashlib.sha256(text).hexdigest() != digest:
        raise OutputError(
            f"worker {seat.name} sees another {path} than the client has written",
            "the same folders under the same paths on every machine",
            "give an output folder that all machines share",
        )
    _plans.clear()
    plan = _plans[digest] = _unpickled(text)
    return plan


def _unpickled(text: bytes) -> Plan:
    found = pickle.loads(text)
    assert isinstance(found, Plan)
    return found


def forget() -> None:
    """Let the plan go that this worker has read, or this client has written."""
    _plans.clear()


def _what(error: Exception) -> str:
    return error.what if isinstance(error, CheckpointError) else str(error)
