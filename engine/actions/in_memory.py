"""Running a whole plan without a file: its output goes into arrays, or nowhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dovetail.engine import events
from dovetail.engine.methods.program import Bytes
from dovetail.engine.output.findings import findings
from dovetail.engine.output.manifest import total_statistics
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.executors import open_executor
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.engine.run.records import RecordTable
from dovetail.engine.run.scheduler import Scheduler
from dovetail.engine.run.session import open_session
from dovetail.io.files.interrupts import held
from dovetail.io.files.machine import resident_bytes
from dovetail.io.source import Slot, checked_slot


@checked_slot
@dataclass(frozen=True, slots=True, eq=False)
class ArraySlot:
    """The place of an output tensor in memory."""

    data: Bytes
    """The bytes of all elements."""
    itemsize: int
    """Size of one element in bytes."""

    def write(self, start: int, data: Bytes) -> None:
        """Copy the bytes of consecutive elements to their place, from element `start` on."""
        begin = start * self.itemsize
        self.data[begin : begin + data.size] = data

    def file_place(self, start: int, stop: int) -> None:
        """Give None, because nothing is written to a file."""


@checked_slot
@dataclass(frozen=True, slots=True, eq=False)
class NoSlot:
    """The place of an output tensor that nobody wants: what is known of it is in the records of the run."""

    def write(self, start: int, data: Bytes) -> None:
        """Drop the bytes."""

    def file_place(self, start: int, stop: int) -> None:
        """Give None, because nothing is written to a file."""


def merge_in_memory(plan: Plan, run: RunOptions, listen: events.Listener) -> list[Bytes]:
    """Run a whole plan, and give the bytes of every output tensor, in the order of the plan.

    Raises
    ------
    MemoryLimitError
        The work does not fit into the memory limit; the output's own memory comes on top of it.

    """
    outputs = [np.empty(tensor.length * tensor.dtype.itemsize, np.uint8) for tensor in plan.tensors]
    slots = [ArraySlot(data, tensor.dtype.itemsize) for data, tensor in zip(outputs, plan.tensors, strict=True)]
    for warning in plan.warnings:
        listen(events.Notice("warning", warning))
    table = run_plan(plan, run, slots, listen)
    for warning in findings(plan, table, total_statistics(plan, table)):
        listen(events.Notice("warning", warning))
    return outputs


def run_plan(plan: Plan, run: RunOptions, slots: Sequence[Slot], listen: events.Listener) -> RecordTable:
    """Run a whole plan; raises as `merge_in_memory` does.

    Parameters
    ----------
    plan, run
        What is run, and within which limits.
    slots
        Where each output tensor goes.
    listen
        Receives the progress.

    Returns
    -------
    RecordTable
        Checksums and statistics of every chunk.

    """
    budget, table = prepare(plan, run, listen)
    plan = plan.frugal() if budget.frugal else plan
    total = plan.read_bytes + sum(tensor.length * tensor.dtype.itemsize for tensor in plan.tensors)
    done, began = 0, time.monotonic()
    with held(), open_session(budget) as session, open_executor(run.executor, budget.workers) as pool:
        scheduler = Scheduler(pool, session, plan, slots.__getitem__, budget.open_jobs, budget.held_bytes)
        jobs = [(job, list(range(len(job.tasks)))) for job in plan.jobs]
        with contextlib.closing(scheduler.run(jobs)) as finished:
            for record in finished:
                table.add(record.pieces)
                done += record.read_bytes + record.written_bytes
                whole = total + scheduler.unforeseen_bytes
                listen(events.Progress(done, whole, time.monotonic() - began, resident_bytes()))
    return table
