"""What a worker of a cluster does: it makes one part of an output, as a process with ``--part`` does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.carry_out_part import PartMaker
from dovetail.engine.errors import InterruptedMergeError
from dovetail.engine.output.publishing import work_folder
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.clusters.cluster import Seat
from dovetail.engine.run.clusters.crew import fair_memory
from dovetail.engine.run.clusters.probe import Question, check_versions, load_plan
from dovetail.engine.run.lock import locked
from dovetail.engine.run.parts.part import Part
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.records import RecordTable
from dovetail.io.files.interrupts import held
from dovetail.io.files.machine import available_bytes, peak_resident_bytes


@dataclass(frozen=True, slots=True)
class PartRequest:
    """What a worker is to do."""

    question: Question
    """The run, its plan and what must be the same everywhere."""
    output: str
    """The output folder, absolute."""
    part: str
    """Which part, as ``3/16``."""
    memory_bytes: int | None
    """Limit on the memory of the worker's process; None for a fair share of what is free."""
    workers: int | None
    """Most tasks at once; None for the threads that the worker has."""

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.question.run

    @property
    def plan_path(self) -> str:
        """File with the plan."""
        return self.question.plan_path


@dataclass(frozen=True, slots=True)
class PartReport:
    """What a worker has done."""

    worker: str
    """Its name."""
    seconds: float
    """Time that it took."""
    read_bytes: int
    """Bytes read from the inputs, in all passes together."""
    written_bytes: int
    """Bytes written to the output."""
    peak_resident_bytes: int
    """Most memory that its process has held."""
    allowed_bytes: int
    """Limit on the memory of its process."""
    workers: int
    """Tasks that ran at once."""


def make_part(request: PartRequest, seat: Seat) -> PartReport | None:
    """Make a part in a worker; None if it was stopped, with all that was done by then in its journal.

    Raises
    ------
    DovetailError
        As `dovetail.engine.merge` does for a recipe that has been planned, and as `dovetail.engine.run.clusters.probe`
        does for a worker that cannot take part.
    FileNotFoundError
        Another process has published the output.

    """
    started, question = time.monotonic(), request.question
    if seat.stopped():
        return None
    check_versions(question.versions, seat)
    plan = load_plan(question.plan_path, question.plan_digest, seat)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Progress) and seat.stopped():
            raise KeyboardInterrupt

    memory = request.memory_bytes or fair_memory(available_bytes(), seat.processes, seat.memory_limit_bytes)
    run = RunOptions(memory, request.workers or seat.threads, part=Part.parse(request.part))
    maker = PartMaker(plan, Path(request.output), run, listen, _nothing, started)
    maker.prepare(run)
    try:
        with held(), locked(maker.staging, shared=True), work_folder(maker.staging) as folder:  # noqa: SIM117
            with maker.made(folder) as execution:
                done = execution
    except InterruptedMergeError:
        return None
    return PartReport(
        seat.name,
        time.monotonic() - started,
        done.read_bytes,
        done.written_bytes,
        peak_resident_bytes(),
        maker.budget.allowed_bytes,
        maker.budget.workers,
    )


def _nothing(plan: Plan, table: RecordTable, folder: Path) -> dict[str, Any]:
    raise AssertionError("the client completes the output")
