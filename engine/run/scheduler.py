"""Running a plan's jobs on an executor: a bounded number of tasks at once, and the passes of each job in order.

The first error cancels the tasks that have not started. Partial results are folded in chunk order, in whatever order
the chunks finish, so that the output depends neither on the workers nor on the executor. A partial result waits until
those of all earlier chunks are there. Once `unfolded_limit` partial results are being computed or are waiting, no
further reduce task is started until the missing one arrives.

What a pass has found is made of its accumulator on a thread of its own: that can take minutes for a large matrix, in
which other jobs go on, and requests to stop are answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from dovetail.engine.errors import WorkerLostError
from dovetail.engine.methods.program import Holding, Program
from dovetail.engine.planning.grid import OPEN_JOBS, Job
from dovetail.engine.planning.plan import READ_AHEAD, UNFOLDED_PER_WORKER, Plan
from dovetail.engine.planning.work import SampleWork, Work
from dovetail.engine.run.session import Session, execute_in
from dovetail.engine.run.task import TaskRecord, prefetch
from dovetail.io.files.interrupts import check_interrupts
from dovetail.io.files.threads import Threads, wait_for_one
from dovetail.io.source import Slot


@dataclass(slots=True)
class _Running:
    """A job that has been opened, and how far its present pass has come."""

    job: Job
    """The job."""
    passes: int
    """Number of its reduce passes."""
    positions: list[int]
    """Positions in the job of the tasks that the apply pass runs."""
    program: Program
    """Folds the partial results."""
    step: int = 0
    """Number of the present pass; the apply pass comes after all reduce passes."""
    state: Any = None
    """Result of the reduce passes so far."""
    pending: deque[int] = field(default_factory=deque)
    """Positions of the tasks of this pass that are not submitted yet."""
    accumulator: Any = None
    """What the partial results of this pass have been folded into."""
    folded: int = 0
    """Number of partial results folded so far, which is the position of the next one to fold."""
    waiting: dict[int, Any] = field(default_factory=dict)
    """Partial results of this pass that wait for one of an earlier chunk, by position."""
    unfinished: int = 0
    """Tasks of this pass without a result."""
    holder: Holding | None = None
    """The program, where it holds what a pass has decided."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Elements that the present pass reads in place of the tasks; empty where it reads these."""
    foreseen: int = 0
    """Reduce passes over all tasks that are still to come, as far as could be foreseen."""
    unforeseen: int = 0
    """Reduce passes over all tasks that came besides."""

    @property
    def reduces(self) -> bool:
        """Whether this is a reduce pass."""
        return self.step < self.passes

    def begin(self, step: int) -> None:
        """Enter pass `step`, or the next that has something to read.

        A reduce pass runs every task of the job, or one task for a sample; the apply pass only those still to do.
        """
        self.step, self.ranges = step, ()
        while self.reduces:
            reads = self.program.reads(self.step, self.state)
            if reads is None:
                self.foreseen, self.unforeseen = self.foreseen - 1, self.unforeseen + (self.foreseen <= 0)
                break
            if reads:
                self.ranges = tuple(reads)
                break
            self.step += 1
        tasks = [0] if self.ranges else range(len(self.job.tasks))
        self.pending = deque(tasks if self.reduces else self.positions)
        self.unfinished = len(self.pending)
        self.folded = 0
        self.accumulator = self.program.begin(self.step, self.state) if self.reduces else None

    def holding(self, work: Work) -> Work:
        """Let a task work with what the program holds of its chunk, if it holds anything."""
        if self.holder is None:
            return work
        [piece] = work.pieces
        state = self.holder.part(self.state, piece.start, piece.stop)
        return replace(work, pieces=(replace(piece, program=self.holder, state=state),))

    def take(self, position: int, partial: Any) -> int:
        """Fold a partial result and those that waited for it, or let it wait; return how many were folded."""
        self.waiting[position] = partial
        before = self.folded
        while self.folded in self.waiting:
            self.accumulator = self.program.fold(self.step, self.accumulator, self.waiting.pop(self.folded))
            self.folded += 1
        return self.folded - before

    def finish(self) -> None:
        """Make the next state of a reduce pass, of which all partial results have been folded."""
        accumulator, self.accumulator = self.accumulator, None
        self.state = self.program.finish(self.step, accumulator, self.state)


def unfolded_limit(workers: int) -> int:
    """Give the most partial results, over all jobs, that may be being computed or waiting to be folded.

    There is room for a full window of tasks and for one more result for each worker, so that every worker has work
    while one chunk is late.
    """
    return UNFOLDED_PER_WORKER * workers + READ_AHEAD


class Scheduler:
    """Runs jobs on an executor and yields the record of every finished apply task, in the order of completion.

    `late` has the records of tasks that ended after an early stop, and `unforeseen_bytes` says how much more is read
    than the plan foresaw, because samples misled; or less, below zero, because passes had nothing to find.

    Parameters
    ----------
    executor
        Any `concurrent.futures.Executor`.
    session
        What the tasks of this run share, and how many of them run at once.
    plan
        Gives each job its program and number of passes, and builds the work of each task.
    slots
        Gives the place to which a tensor is written, by the tensor's index.
    open_jobs
        Jobs that may be open at once.
    held_bytes
        Most memory that each of them may take to hold what a pass has decided.

    """

    def __init__(
        self,
        executor: Executor,
        session: Session,
        plan: Plan,
        slots: Callable[[int], Slot],
        open_jobs: int = OPEN_JOBS,
        held_bytes: int = 0,
    ) -> None:
        self._executor, self._session, self._window = executor, session, session.workers + READ_AHEAD
        self._plan, self._slots, self._open_jobs = plan, slots, open_jobs
        self._held_bytes = held_bytes
        self._unfolded, self._most_unfolded = 0, unfolded_limit(session.workers)
        self.late: list[TaskRecord] = []
        self.unforeseen_bytes = 0
        self._open: list[_Running] = []
        self._flying: dict[Future[TaskRecord], tuple[_Running, int]] = {}
        self._finishing: dict[Future[None], _Running] = {}

    def run(self, jobs: Iterable[tuple[Job, list[int]]]) -> Generator[TaskRecord, None, None]:
        """Run the jobs, and yield the record of every task, on the calling thread, as the tasks finish.

        Records of reduce tasks are yielded too, without their partial results, because they count as progress. On an
        error, or when the caller stops early, the tasks that have not started are cancelled and those that run are
        waited for; the records of those that succeed are left in `late`.

        Parameters
        ----------
        jobs
            Each job, with the positions in it of the tasks that the apply pass runs.

        Raises
        ------
        WorkerLostError
            A process of the executor has died.

        """
        queue = iter(jobs)
        finisher = Threads(min(self._open_jobs, self._session.workers), thread_name_prefix="dovetail-finish")
        try:
            while True:
                self._fill(queue)
                if not self._flying and not self._finishing:
                    return
                done = wait_for_one([*self._flying, *self._finishing])
                while done:
                    future = done.pop()
                    if future in self._finishing:
                        self._enter_next(future)
                    else:
                        yield self._take(future, finisher)
        except BrokenExecutor as error:
            check_interrupts()  # Ctrl-C reaches the processes of an executor too
            raise WorkerLostError(
                f"a worker process has died ({str(error).rstrip('.')})",
                "every worker to live until the end",
                "see whether the system killed it for want of memory, and run the same command again to continue",
            ) from error
        finally:
            if self._flying:
                self._session.patience.give_up()  # so that no task goes on waiting for a server
            under_way: list[Future[Any]] = [*self._flying, *self._finishing]
            for future in under_way:
                future.cancel()
            wait(under_way)
            finisher.shutdown()
            finished = (future for future in self._flying if not future.cancelled() and not future.exception())
            self.late = [future.result() for future in finished]

    def _fill(self, queue: Iterator[tuple[Job, list[int]]]) -> None:
        """Submit tasks until the window is full; open further jobs while the open ones wait for their pass to end."""
        while len(self._flying) < self._window:
            full = self._unfolded >= self._most_unfolded
            running = next((item for item in self._open if item.pending and not (full and item.reduces)), None)
            if running is None:
                if len(self._open) >= self._open_jobs or not self._open_next(queue):
                    return
                continue
            self._unfolded += running.reduces
            position = running.pending.popleft()
            work = self._work(running, position)
            self._flying[self._executor.submit(execute_in, self._session, work)] = (running, position)

    def _work(self, running: _Running, position: int) -> Work | SampleWork:
        """Make the work of a task, and let the disk begin to read what it needs."""
        if running.ranges:
            return self._plan.sample(running.job, running.step, running.state, running.ranges)
        work = running.holding(self._plan.work(running.job, position, running.step, running.state, self._slots))
        with self._session.entered():
            prefetch(work)
        return work

    def _open_next(self, queue: Iterator[tuple[Job, list[int]]]) -> bool:
        """Open the next job and return True, or return False if there is none."""
        job, positions = next(queue, (None, []))
        if job is None:
            return False
        program, passes = self._plan.program(job), self._plan.reduce_passes(job)
        holder = None
        if isinstance(program, Holding) and 0 < self._plan.held_bytes(job) <= self._held_bytes:
            holder = program.holding()
        foreseen = program.readings[0] if passes else 0
        running = _Running(job, passes, positions, holder or program, foreseen=foreseen, holder=holder)
        self._begin(running, 0)
        if running.pending:
            self._open.append(running)
        return True

    def _enter_next(self, future: Future[None]) -> None:
        """Let a job enter the next pass, when what the last one has found is there."""
        running = self._finishing.pop(future)
        future.result()
        self._begin(running, running.step + 1)

    def _begin(self, running: _Running, step: int) -> None:
        """Let a job enter a pass, and count what it reads, or does not read, if nobody could foresee it."""
        before = running.unforeseen
        running.begin(step)
        more = running.unforeseen - before
        if not running.reduces:  # what was foreseen and not needed is not read any more
            more, running.foreseen = -max(running.foreseen, 0), 0
        if more:
            self.unforeseen_bytes += more * self._plan.tensors[running.job.tasks[0][0].tensor].input_bytes

    def _take(self, future: Future[TaskRecord], finisher: Executor) -> TaskRecord:
        """Return the record of a finished task; if it was the last of its pass, let the pass be finished."""
        running, position = self._flying.pop(future)
        record = future.result()
        running.unfinished -= 1
        if running.reduces:
            self._unfolded -= running.take(position, record.partial)
            record = replace(record, partial=None)
        if running.unfinished == 0:
            if running.reduces:
                self._finishing[finisher.submit(running.finish)] = running
            else:
                self._open.remove(running)
        return record
