"""What the workers of a cluster have: threads, and memory within which each of them stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from dovetail.engine.run.budget import DEFAULT_LIMIT_BYTES
from dovetail.engine.run.clusters.probe import Answer
from dovetail.engine.text import counted, format_size

_SHARE_OF_LIMIT: Final = 0.6
"""Share of the memory at which a cluster ends a worker that the worker takes, if the user says nothing."""


def fair_memory(available_bytes: int, processes: int, limit_bytes: int | None) -> int:
    """Give the memory limit of one worker, if the user says nothing.

    Parameters
    ----------
    available_bytes
        Memory that is free on its machine.
    processes
        Workers on its machine.
    limit_bytes
        Memory at which the cluster ends it; None if it never does.

    Returns
    -------
    int
        Its share of half of what is free, at most 2 GiB, and less than what ends it.

    """
    most = DEFAULT_LIMIT_BYTES if limit_bytes is None else min(DEFAULT_LIMIT_BYTES, int(_SHARE_OF_LIMIT * limit_bytes))
    return max(1, min(most, available_bytes // (2 * processes)))


@dataclass(frozen=True, slots=True)
class Crew:
    """The workers that have said what they are."""

    name: str
    """What people call the cluster."""
    answers: tuple[Answer, ...]
    """What each has said."""
    memory_bytes: int | None
    """Limit on the memory of each, if the user gives one."""
    threads: int | None
    """Most tasks at once in each, if the user says so."""

    def memory_of(self, answer: Answer) -> int:
        """Give the memory limit of a worker, in bytes."""
        hosts = Counter(each.host for each in self.answers)
        fair = fair_memory(answer.available_bytes, max(1, hosts[answer.host]), answer.memory_limit_bytes)
        return self.memory_bytes or fair

    @property
    def all_threads(self) -> int:
        """Tasks that run at once in all of them."""
        return sum(self.threads or answer.threads for answer in self.answers)

    @property
    def all_memory_bytes(self) -> int:
        """The limits of all of them together."""
        return sum(map(self.memory_of, self.answers))

    def to_json(self) -> dict[str, Any]:
        """Give it as a JSON object, with a list of the workers."""
        workers = [
            {
                "host": answer.host,
                "memory_bytes": self.memory_of(answer),
                "threads": self.threads or answer.threads,
            }
            for answer in self.answers
        ]
        return {"name": self.name, "workers": workers}

    def __str__(self) -> str:
        sizes = [self.memory_of(answer) for answer in self.answers]
        threads = [self.threads or answer.threads for answer in self.answers]
        each = _range(threads, lambda count: counted(count, "thread"))
        machines = counted(len({answer.host for answer in self.answers}), "machine")
        workers = counted(len(self.answers), "worker")
        return f"{workers} x {_range(sizes, format_size)} with {each} each on {machines} ({self.name})"


def _range(values: Collection[int], text: Callable[[int], str]) -> str:
    """Write values that are the same, or the smallest and the greatest."""
    low, high = min(values, default=0), max(values, default=0)
    return text(low) if low == high else f"{text(low)} to {text(high)}"
