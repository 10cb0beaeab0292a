"""Running those tasks of a plan that the journal does not have, committing their output, and reporting progress."""

from __future__ import annotations

import contextlib
import math
import queue
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from dovetail.engine import events
from dovetail.engine.planning.grid import Job
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.commit import Committer
from dovetail.engine.run.executors import open_executor
from dovetail.engine.run.journal import RowFile
from dovetail.engine.run.records import RecordTable, chunk_checksums
from dovetail.engine.run.scheduler import Scheduler
from dovetail.engine.run.session import open_session
from dovetail.engine.run.task import TaskRecord
from dovetail.io.files.machine import resident_bytes
from dovetail.io.output_format import Sink

_MEASURED_S: Final = 0.1
"""Seconds between two measurements of this process's memory for reports of progress, which follow every task."""


class Execution:
    """One run over the tasks of a plan that the journal does not have yet.

    Parameters
    ----------
    plan
        The plan that is carried out.
    budget
        The memory and the number of workers that the run may use.
    table, journal
        The record of finished chunks, in memory and on the disk.
    sink
        Takes the output's bytes.
    listen
        Receives events, always on the thread that calls `run`.
    jobs
        Those of the plan's jobs that are carried out; None for all.

    """

    def __init__(
        self,
        plan: Plan,
        budget: Budget,
        table: RecordTable,
        journal: RowFile,
        sink: Sink,
        listen: events.Listener,
        jobs: Sequence[Job] | None = None,
    ) -> None:
        self.plan, self.budget, self.table, self.journal = plan, budget, table, journal
        self.sink, self.listen = sink, listen
        self.read_bytes = self.written_bytes = 0
        self._made_rows = 0
        self.seconds = 0.0
        wanted = plan.jobs if jobs is None else jobs
        self._jobs = [(job, todo) for job in wanted if (todo := self._positions(job))]
        self.total_bytes = sum(self._job_bytes(job, todo) for job, todo in self._jobs)
        self._shard_chunks: Counter[int] = Counter()
        self._shard_tensors: defaultdict[int, list[int]] = defaultdict(list)
        for index, placed in enumerate(plan.layout.tensors):
            self._shard_tensors[placed.shard].append(index)
            self._shard_chunks[placed.shard] += int((table.of_tensor(index)["done"] == 0).sum())
        self._durable: queue.SimpleQueue[Sequence[TaskRecord]] = queue.SimpleQueue()
        self._durable_tasks = 0
        self._resident_bytes, self._measured = 0, -math.inf

    @property
    def share_made(self) -> float:
        """Share of all chunks of the plan that this run has made durable, from 0 to 1."""
        return self._made_rows / len(self.table.rows) if len(self.table.rows) else 1.0

    @property
    def remaining_bytes(self) -> int:
        """Output bytes of the tasks that this run has to do."""
        return sum(
            self.plan.output_bytes(piece)
            for job, todo in self._jobs
            for position in todo
            for piece in job.tasks[position]
        )

    def run(self, executor: object = None) -> None:
        """Run all tasks that are left; on return their output is durable and journalled.

        After an error or an interruption, the output of the tasks that have finished is made durable and journalled
        before the exception leaves this method.

        Parameters
        ----------
        executor
            Runs the tasks; None for a pool of threads.

        """
        started = time.monotonic()
        committer = Committer(self._flush, self._durable.put, self.budget.unwritten_bytes)
        try:
            ahead_bytes = self.plan.read_ahead_bytes if executor is None else 0
            with (
                open_session(self.budget, ahead_bytes) as session,
                open_executor(executor, self.budget.workers) as pool,
            ):
                scheduler = Scheduler(
                    pool, session, self.plan, self.sink.slot, self.budget.open_jobs, self.budget.held_bytes
                )
                try:
                    with contextlib.closing(scheduler.run(self._jobs)) as finished:
                        for record in finished:
                            self._take(record, committer)
                            self._report_durable()
                            self._report_progress(started, scheduler.unforeseen_bytes)
                finally:  # after an early stop, take the tasks that were running then and have finished since
                    for record in scheduler.late:
                        self._take(record, committer)
        finally:
            committer.close()
            self._report_durable()
            self.seconds = time.monotonic() - started

    def _take(self, record: TaskRecord, committer: Committer) -> None:
        self.read_bytes += record.read_bytes
        self.written_bytes += record.written_bytes
        if record.pieces:
            committer.put(record)

    def _positions(self, job: Job) -> list[int]:
        """Give the positions of those tasks of a job that have a chunk which is not done."""
        return [
            position
            for position, pieces in enumerate(job.tasks)
            if not all(
                self.table.is_done(index, piece.chunk) for piece in pieces for index, _, _ in self.plan.outputs(piece)
            )
        ]

    def _job_bytes(self, job: Job, todo: list[int]) -> int:
        """Count the bytes that this run will read and write for a job: its reduce passes need every task again."""
        total = 0
        wanted = set(todo)
        passes, sampled = self.plan.program(job).readings if self.plan.reduce_passes(job) else (0, 0)
        if sampled:
            total += self.plan.tensors[job.tasks[0][0].tensor].sampled_bytes
        for position, pieces in enumerate(job.tasks):
            for piece in pieces:
                tensor = self.plan.tensors[piece.tensor]
                read = tensor.read_bytes(piece.start, piece.stop)
                total += passes * read
                if position in wanted:
                    total += read + self.plan.output_bytes(piece)
        return total

    def _flush(self, group: Sequence[TaskRecord]) -> None:
        """Make the output of a group of tasks durable, then append its rows to the journal.

        Nothing is committed once an input file has changed. Otherwise a user could restore the file and continue the
        merge, and the journal would vouch for chunks that were computed from the changed file.
        """
        for checkpoint in self.plan.checkpoints:
            checkpoint.check_unchanged()
        pieces = [piece for record in group for piece in record.pieces]
        self.sink.commit((piece.tensor, *self.plan.tensors[piece.tensor].chunk_range(piece.chunk)) for piece in pieces)
        rows = self.table.add(pieces)
        self.journal.append(rows)
        self._made_rows += len(rows)

    def _report_durable(self) -> None:
        """Report the commits since the last call, and the output files that they completed."""
        while not self._durable.empty():
            group = self._durable.get()
            self._durable_tasks += len(group)
            size = sum(record.written_bytes for record in group)
            self.listen(events.Committed(tasks=self._durable_tasks, bytes=size))
            shards: Counter[int] = Counter(
                self.plan.layout.tensors[piece.tensor].shard for record in group for piece in record.pieces
            )
            for number, count in shards.items():
                self._shard_chunks[number] -= count
                if self._shard_chunks[number] == 0:
                    self.listen(self._shard_finished(number))

    def _shard_finished(self, number: int) -> events.ShardFinished:
        shard = self.plan.layout.shards[number]
        checksums = {
            self.plan.tensors[index].name: chunk_checksums(self.table.of_tensor(index))
            for index in self._shard_tensors[number]
        }
        return events.ShardFinished(file=shard.file_name, bytes=shard.size_bytes, checksums=checksums)

    def _report_progress(self, started: float, unforeseen_bytes: int) -> None:
        now = time.monotonic()
        if now - self._measured >= _MEASURED_S:
            self._resident_bytes, self._measured = resident_bytes(), now
        self.listen(
            events.Progress(
                done_bytes=self.read_bytes + self.written_bytes,
                total_bytes=self.total_bytes + unforeseen_bytes,
                seconds=now - started,
                resident_bytes=self._resident_bytes,
            )
        )
