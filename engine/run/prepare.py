"""Preparing to run a plan: load its kernels, measure the memory of the process, and choose the number of workers."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import InitVar, dataclass, replace
from functools import cached_property

from dovetail.engine import events
from dovetail.engine.errors import MemoryLimitError, RecipeError
from dovetail.engine.methods.convert import CONVERT
from dovetail.engine.planning.grid import OPEN_JOBS
from dovetail.engine.planning.plan import READ_AHEAD, UNFOLDED_PER_WORKER, Plan
from dovetail.engine.planning.tensors import conversions, problems
from dovetail.engine.run.budget import TENSOR_BYTES, Budget, default_limit_bytes, fit, least
from dovetail.engine.run.chunk_sharing import share_memory
from dovetail.engine.run.clusters.find import check_executor, is_cluster
from dovetail.engine.run.parts.part import Part
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
    executor: Executor | object | None = None
    """Runs the tasks; None for a pool of threads. Its workers must see the same files. The memory limit bounds this
    process alone, and not the processes in which an executor runs tasks.

    A cluster makes whole parts instead, and the memory limit bounds each of its worker processes: the address of a Dask
    scheduler as text, ``"dask://HOST:PORT"``; a ``Client``, a ``Cluster`` or a ``ClientExecutor`` of Dask; an
    ``MPIPoolExecutor``, or ``"mpi"`` for that of ``python -m mpi4py.futures``. `dovetail.engine.merge` and
    `dovetail.engine.make_vectors` alone take clusters."""
    part: Part | str | None = None
    """Which part of the merge this process makes, as ``"3/16"``, or ``"auto"`` for what SLURM's or MPI's variables say;
    None for all of it. Each part is made by a process of its own, on any machine that sees the same files, and the last
    one publishes the output. `dovetail.engine.merge` and `dovetail.engine.make_vectors` alone take it."""
    memory: InitVar[int | str | None] = None
    """Another way to give `memory_bytes`: as people write sizes, ``"512MiB"``."""

    def __post_init__(self, memory: int | str | None) -> None:
        if isinstance(self.part, str):
            object.__setattr__(self, "part", Part.parse(self.part))
        check_executor(self.executor)
        if self.part is not None and is_cluster(self.executor):
            raise RecipeError(
                f"part {self.part} is to be made, and a cluster to make all parts",
                "one of both",
                "leave out the part, or the executor",
            )
        if self.part is not None and self.restart:
            raise RecipeError(
                f"an unfinished output is to be thrown away, and part {self.part} to be made",
                "one process that begins anew, before the parts",
                "run one process with --restart and without a part first, or leave out --restart",
            )
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
    needed: list[Trial] = [*trials(plan.method.name, problems(plan)), *trials(CONVERT.name, conversions(plan))]
    if any(checkpoint.adapter is not None for checkpoint in plan.checkpoints):
        from dovetail.io.adapters.kernels import compile_all

        needed.append(compile_all)
    if any(tensor.program.readings[1] for tensor in plan.tensors):
        from dovetail.engine.methods.selection import try_sampling

        needed.append(try_sampling)
    warm_up(needed, lambda text: listen(events.Notice("info", text)))
    # The table's pages become resident only as chunks finish.
    held = resident_bytes() + TENSOR_BYTES * len(plan.tensors) + table.rows.nbytes + plan.read_ahead_bytes
    workers = run.workers if run.workers is not None else usable_cores()
    frugal = plan.frugal()
    needs = _Needs(frugal, held, compared_bytes)
    planning = plan.vocabulary.planning_bytes if plan.vocabulary else 0
    allowed = run.memory_bytes or default_limit_bytes(
        max(planning, least(needs.reserved_bytes(OPEN_JOBS), needs.task_bytes))
    )
    if planning > allowed:
        raise MemoryLimitError(
            f"memory limit {format_size(allowed)} is too small for these vocabularies",
            f"at least {format_size(planning)}, which reading them took",
            f"pass --memory {-(-planning // 2**20)}MiB or more",
        )
    # One job at a time is slower, and takes the memory of one accumulator instead of several.
    open_jobs = OPEN_JOBS if needs.fits(allowed, 1, OPEN_JOBS) else 1
    budget = fit(allowed, needs.reserved_bytes(open_jobs), needs.task_bytes, workers)
    budget = replace(budget, open_jobs=open_jobs, frugal=frugal is not plan)
    if budget.frugal:  # else there is no choice
        budget = _generous(_Needs(plan, held, compared_bytes), budget) or budget
    budget = replace(budget, shared_bytes=share_memory(frugal if budget.frugal else plan, budget, listen))
    room = (budget.allowed_bytes - budget.projected_bytes) // budget.open_jobs
    fitting = (size for size in map(plan.held_bytes, plan.jobs) if size <= room)
    return replace(budget, held_bytes=max(fitting, default=0)), table


@dataclass(frozen=True)  # without slots, so that what is asked for several times is computed once
class _Needs:
    """The memory that a plan needs, beyond the number of its workers."""

    plan: Plan
    """The plan."""
    held_bytes: int
    """Memory that the process holds before the first task."""
    compared_bytes: int
    """Memory that a task takes besides, to compare what it gives."""

    @cached_property
    def task_bytes(self) -> int:
        """Most memory that one running task adds."""
        return self.plan.task_bytes + UNFOLDED_PER_WORKER * self.plan.partial_bytes + self.compared_bytes

    def reserved_bytes(self, open_jobs: int) -> int:
        """Give the memory that is taken whatever the number of workers, with so many open jobs."""
        return self.held_bytes + READ_AHEAD * self.plan.partial_bytes + self.plan.accumulated_bytes(open_jobs)

    def fits(self, allowed_bytes: int, workers: int, open_jobs: int) -> bool:
        """Say whether the plan stays within a limit."""
        budget = Budget(allowed_bytes, self.reserved_bytes(open_jobs), self.task_bytes, workers)
        return budget.projected_bytes <= allowed_bytes


def _generous(needs: _Needs, frugal: Budget) -> Budget | None:
    """Give the budget of a plan that spares passes by taking more memory; None if that would cost workers."""
    allowed, workers = frugal.allowed_bytes, frugal.workers
    for open_jobs in dict.fromkeys((OPEN_JOBS, 2, frugal.open_jobs)):
        if needs.fits(allowed, workers, open_jobs):
            reserved = needs.reserved_bytes(open_jobs)
            return Budget(allowed, reserved, needs.task_bytes, workers, open_jobs=open_jobs)
    return None
