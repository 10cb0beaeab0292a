"""Preparing to run a plan: load its kernels, measure the memory of the process, and choose the number of workers."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import InitVar, dataclass, replace

from dovetail.engine import events
from dovetail.engine.errors import MemoryLimitError, RecipeError
from dovetail.engine.methods.convert import CONVERT
from dovetail.engine.planning.grid import OPEN_JOBS
from dovetail.engine.planning.plan import READ_AHEAD, UNFOLDED_PER_WORKER, Plan
from dovetail.engine.planning.tensors import conversions, problems
from dovetail.engine.run.budget import TENSOR_BYTES, Budget, default_limit_bytes, fit, least
from dovetail.engine.run.chunk_sharing import share_memory
from dovetail.engine.run.records import RecordTable
from dovetail.engine.run.warm import Trial, trials, warm_up
from dovetail.engine.text import format_size, parse_size
from dovetail.io.files.machine import resident_bytes, usable_cores


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a plan is run; none of these options changes a byte of the output."""

    memory_bytes: int | None = None
    """Limit on the memory of this process; None for half of the free memory, at most 2 GiB, or what the merge needs."""
    workers: int | None = None
    """Most tasks that run at once; fewer run if memory does not allow so many. None for one on each core."""
    overwrite: bool = False
    """Whether an output folder that is not empty is replaced."""
    restart: bool = False
    """Whether an unfinished output is deleted instead of continued."""
    executor: Executor | None = None
    """Runs the tasks; None for a pool of threads. Its workers must see the same files. The memory limit bounds this
    process alone, and not the processes in which an executor runs tasks."""
    memory: InitVar[int | str | None] = None
    """Another way to give `memory_bytes`: as people write sizes, ``"512MiB"``."""

    def __post_init__(self, memory: int | str | None) -> None:
        if memory is not None:
            if self.memory_bytes is not None:
                raise RecipeError("both memory and memory_bytes are given", "one of them", "leave out memory_bytes")
            object.__setattr__(self, "memory_bytes", parse_size(memory))
        elif isinstance(self.memory_bytes, str):
            object.__setattr__(self, "memory_bytes", parse_size(self.memory_bytes))
        for name, value in (("memory_bytes", self.memory_bytes), ("workers", self.workers)):
            if value is not None and value < 1:
                raise RecipeError(f"{name} is {value}", "a positive number, or None", f"correct {name}")


def prepare(
    plan: Plan, run: RunOptions, listen: events.Listener = events.ignore, *, compared_bytes: int = 0
) -> tuple[Budget, RecordTable]:
    """Load the plan's kernels, measure the memory of the process, and fit the plan to the memory limit.

    Parameters
    ----------
    plan
        The plan that will be run.
    run
        Memory limit and workers.
    listen
        Receives a notice if kernels must be compiled, and warnings about memory.
    compared_bytes
        Memory that a task takes besides, to compare what it gives with what is there.

    Returns
    -------
    tuple of Budget and RecordTable
        The memory and workers of the run, and an empty table for its records.

    Raises
    ------
    MemoryLimitError
        The limit is too small; the message names one that is enough.

    """
    table = RecordTable(plan)

    def compiling() -> None:
        listen(events.Notice("info", "Compiling kernels for this machine; later runs find them in the cache."))

    needed: list[Trial] = [*trials(plan.method.name, problems(plan)), *trials(CONVERT.name, conversions(plan))]
    if any(checkpoint.adapter is not None for checkpoint in plan.checkpoints):
        from dovetail.io.adapters.kernels import compile_all

        needed.append(compile_all)
    warm_up(needed, compiling)
    workers = run.workers if run.workers is not None else usable_cores()
    # The table's pages become resident only as chunks finish.
    reserved = resident_bytes() + TENSOR_BYTES * len(plan.tensors) + table.rows.nbytes + plan.read_ahead_bytes
    reserved += READ_AHEAD * plan.partial_bytes
    task_bytes = plan.task_bytes + UNFOLDED_PER_WORKER * plan.partial_bytes + compared_bytes
    planning = plan.vocabulary.planning_bytes if plan.vocabulary else 0
    allowed = run.memory_bytes or default_limit_bytes(
        max(planning, least(reserved + plan.accumulator_bytes, task_bytes))
    )
    if planning > allowed:
        raise MemoryLimitError(
            f"memory limit {format_size(allowed)} is too small for these vocabularies",
            f"at least {format_size(planning)}, which reading them took",
            f"pass --memory {-(-planning // 2**20)}MiB or more",
        )
    # One job at a time is slower, and takes the memory of one accumulator instead of several.
    roomy = Budget(allowed, reserved + plan.accumulator_bytes, task_bytes, 1)
    open_jobs = OPEN_JOBS if roomy.projected_bytes <= allowed else 1
    budget = fit(allowed, reserved + plan.accumulated_bytes(open_jobs), task_bytes, workers)
    budget = replace(budget, open_jobs=open_jobs)
    return replace(budget, shared_bytes=share_memory(plan, budget, listen)), table
