"""Which part of a merge a process makes: as the user says it, or as SLURM and MPI tell their processes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from dovetail.engine.errors import RecipeError

MOST_PARTS: Final = 1_000_000
"""Most parts that a merge is divided into: more can only be a slip."""

_STEP: Final = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
"""Variables that `srun` sets."""

_RANKS: Final = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    _STEP,
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
"""Variables with a process's number, from 0, and the number of processes; the closest launcher comes first."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of several parts of a merge."""

    number: int
    """Which one, from 1."""
    count: int
    """How many there are."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count <= MOST_PARTS:
            raise RecipeError(
                f"part is {self}", f"I/N with I from 1 to N, and N at most {MOST_PARTS:,}", "correct the part"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] | None = None) -> Self:
        """Read ``3/16``, or ``auto`` for what SLURM's or MPI's variables say.

        Raises
        ------
        RecipeError
            The text is neither, or the variables are not there or do not say which part it is.

        """
        if text.strip() == "auto":
            return cls(*_from_environment(os.environ if environment is None else environment))
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if found is None:
            raise RecipeError(f"part is {text!r}", "I/N such as 3/16, or auto", "correct the part")
        return cls(int(found[1]), int(found[2]))


def _from_environment(found: Mapping[str, str]) -> tuple[int, int]:
    """Find out which part this process is: of an array of SLURM, of the ranks of a job, or of both."""
    names = [pair for pair in _RANKS if set(pair) <= found.keys()][:1]
    if names and set(_STEP) <= found.keys():
        names.append(_STEP)  # srun may have started processes each of which MPI takes for the only one
    ranks = [(_number(found, number), _number(found, size)) for number, size in names]
    rank = max(ranks, key=lambda each: each[1], default=None)
    task = _array_task(found) if "SLURM_ARRAY_TASK_ID" in found else None
    if rank is None and task is None:
        raise RecipeError(
            "part is auto, and no variable of SLURM or MPI is set",
            "a job array of SLURM, or a process that srun or mpiexec has started",
            "pass the part as I/N, such as 3/16",
        )
    process, processes = rank or (0, 1)
    place, tasks = task or (0, 1)
    return place * processes + process + 1, tasks * processes


def _array_task(found: Mapping[str, str]) -> tuple[int, int]:
    """Give the place of a task in its array, from 0, and the number of tasks."""
    task, count = _number(found, "SLURM_ARRAY_TASK_ID"), _number(found, "SLURM_ARRAY_TASK_COUNT")
    first = _number(found, "SLURM_ARRAY_TASK_MIN")
    step = max(1, _number(found, "SLURM_ARRAY_TASK_STEP")) if "SLURM_ARRAY_TASK_STEP" in found else 1
    last = _number(found, "SLURM_ARRAY_TASK_MAX") if "SLURM_ARRAY_TASK_MAX" in found else first + step * (count - 1)
    place, off = divmod(task - first, step)
    if off or last != first + step * (count - 1) or not 0 <= place < count:
        raise RecipeError(
            f"part is auto, and the array of SLURM has {count} tasks from {first} to {last} with gaps",
            "an array without gaps, of which a task can tell its place",
            f"submit --array=1-{count}, since any number of parts continues a merge, or pass the part as I/N",
        )
    return place, count


def _number(found: Mapping[str, str], name: str) -> int:
    try:
        return int(found[name])
    except (KeyError, ValueError):
        raise RecipeError(
            f"part is auto, and {name} is {found.get(name, 'not set')}", "a whole number", "pass the part as I/N"
        ) from None


def ranges(numbers: list[int]) -> str:
    """Write sorted numbers as SLURM's ``--array`` takes them: ``3,7-9``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
