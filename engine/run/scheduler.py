"""Running a plan's jobs on an executor: bounded window, passes in order, first error cancels the rest.

Partial results are folded in chunk order whatever the order in which chunks finish, so that results depend neither on
the workers nor on the executor. Those that are ahead of an unfinished chunk wait; once `unfolded_limit` chunks are
under way or wait, no further one is begun until the late one is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from dovetail.engine.errors import WorkerLostError
from dovetail.engine.methods.program import Program
from dovetail.engine.planning.grid import OPEN_JOBS, Job
from dovetail.engine.planning.plan import READ_AHEAD, UNFOLDED_PER_WORKER, Plan
from dovetail.engine.run.session import Session, execute_in
from dovetail.engine.run.task import TaskRecord, prefetch
from dovetail.io.source import Slot


@dataclass(slots=True)
class _Running:
    """One job and the pass that it is in."""

    job: Job
    passes: int
    """Reduce passes."""
    positions: list[int]
    """Tasks of the job that the apply pass is to run."""
    program: Program
    """Folds the partial results."""
    step: int = 0
    state: Any = None
    pending: deque[int] = field(default_factory=deque)
    """Positions of this pass not yet submitted."""
    accumulator: Any = None
    """What the partial results of this pass have been folded into."""
    folded: int = 0
    """Number of partial results folded: the position of the next."""
    waiting: dict[int, Any] = field(default_factory=dict)
    """Partial results of this pass that an earlier chunk keeps from being folded, by position."""
    unfinished: int = 0
    """Tasks of this pass without a result."""

    @property
    def reduces(self) -> bool:
        """Whether this is a reduce pass."""
        return self.step < self.passes

    def begin(self, step: int) -> None:
        """Enter pass `step`: a reduce pass needs every chunk, the apply pass only those still to do."""
        self.step = step
        self.pending = deque(range(len(self.job.tasks)) if self.reduces else self.positions)
        self.unfinished = len(self.pending)
        self.folded = 0
        self.accumulator = self.program.begin(step, self.state) if self.reduces else None

    def take(self, position: int, partial: Any) -> int:
        """Fold a partial result and those that waited for it, or let it wait; give how many were folded."""
        self.waiting[position] = partial
        before = self.folded
        while self.folded in self.waiting:
            self.accumulator = self.program.fold(self.step, self.accumulator, self.waiting.pop(self.folded))
            self.folded += 1
        return self.folded - before

    def finish(self) -> None:
        """Leave a reduce pass, whose partial results are all folded, and enter the next pass."""
        accumulator, self.accumulator = self.accumulator, None
        self.state = self.program.finish(self.step, accumulator, self.state)
        del accumulator  # before the next one is made
        self.begin(self.step + 1)


def unfolded_limit(workers: int) -> int:
    """Give the most partial results that are being computed or wait to be folded, over all jobs.

    That is a window of tasks, and one more result for each worker, so that all have work while one chunk is late.
    """
    return UNFOLDED_PER_WORKER * workers + READ_AHEAD


class Scheduler:
    """Runs jobs on an executor and yields the record of every finished apply task, in the order of completion.

    Parameters
    ----------
    executor
        Any `concurrent.futures.Executor`.
    session
        What the tasks of this run share; also says how many may run at once.
    plan
        Knows the program and the passes of a job, and builds the work of a task.
    slots
        Gives the place to write by the tensor's index.

    """

    def __init__(
        self,
        executor: Executor,
        session: Session,
        plan: Plan,
        slots: Callable[[int], Slot],
    ) -> None:
        self._executor, self._session, self._window = executor, session, session.workers + READ_AHEAD
        self._plan, self._slots = plan, slots
        self._unfolded, self._most_unfolded = 0, unfolded_limit(session.workers)
        self.late: list[TaskRecord] = []
        self._open: list[_Running] = []
        self._flying: dict[Future[TaskRecord], tuple[_Running, int]] = {}

    def run(self, jobs: Iterable[tuple[Job, list[int]]]) -> Generator[TaskRecord, None, None]:
        """Run the given tasks, as positions in their job, of every job.

        Every record is yielded on the calling thread: apply records as they finish, reduce records too (they tell
        progress), without their partial results. On any error, and when the caller stops early, tasks not yet started
        are cancelled and running ones are waited for; the records of those that succeed are left in `late`.

        Raises
        ------
        WorkerLostError
            A process of the executor has died.

        """
        queue = iter(jobs)
        try:
            while True:
                self._fill(queue)
                if not self._flying:
                    return
                done = wait(self._flying, return_when=FIRST_COMPLETED).done
                while done:
                    yield self._take(done.pop())
        except BrokenExecutor as error:
            raise WorkerLostError(
                f"a worker process has died ({str(error).rstrip('.')})",
                "every worker to live until the end",
                "see whether the system killed it for want of memory, and run the same command again to continue",
            ) from error
        finally:
            if self._flying:
                self._session.patience.give_up()  # or else tasks that wait for their servers would be waited for here
            for future in self._flying:
                future.cancel()
            wait(self._flying)
            finished = (future for future in self._flying if not future.cancelled() and not future.exception())
            self.late = [future.result() for future in finished]

    def _fill(self, queue: Iterator[tuple[Job, list[int]]]) -> None:
        """Submit tasks until the window is full, opening further jobs while others wait for a pass."""
        while len(self._flying) < self._window:
            full = self._unfolded >= self._most_unfolded
            running = next((item for item in self._open if item.pending and not (full and item.reduces)), None)
            if running is None:
                if len(self._open) >= OPEN_JOBS or not self._open_next(queue):
                    return
                continue
            self._unfolded += running.reduces
            position = running.pending.popleft()
            work = self._plan.work(running.job, position, running.step, running.state, self._slots)
            with self._session.entered():
                prefetch(work)
            self._flying[self._executor.submit(execute_in, self._session, work)] = (running, position)

    def _open_next(self, queue: Iterator[tuple[Job, list[int]]]) -> bool:
        """Open the next job, if there is one."""
        job, positions = next(queue, (None, []))
        if job is None:
            return False
        running = _Running(job, self._plan.reduce_passes(job), positions, self._plan.program(job))
        running.begin(0)
        if running.pending:
            self._open.append(running)
        return True

    def _take(self, future: Future[TaskRecord]) -> TaskRecord:
        """Note a finished task and enter the next pass when it was the last of its pass; give its record."""
        running, position = self._flying.pop(future)
        record = future.result()
        running.unfinished -= 1
        if running.reduces:
            self._unfolded -= running.take(position, record.partial)
            record = replace(record, partial=None)
        if running.unfinished == 0:
            if running.reduces:
                running.finish()
            else:
                self._open.remove(running)
        return record
