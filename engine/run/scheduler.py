"""Running a plan's jobs on an executor: bounded window, passes in order, first error cancels the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any

from dovetail.engine.errors import WorkerLostError
from dovetail.engine.planning.grid import OPEN_JOBS, Job
from dovetail.engine.planning.plan import READ_AHEAD, Plan
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
    step: int = 0
    state: Any = None
    pending: deque[int] = field(default_factory=deque)
    """Positions of this pass not yet submitted."""
    partials: dict[int, Any] = field(default_factory=dict)
    """Partial results of this pass by position."""
    unfinished: int = 0
    """Tasks of this pass without a result."""

    def begin(self, step: int) -> None:
        """Enter pass `step`: a reduce pass needs every chunk, the apply pass only those still to do."""
        self.step = step
        self.pending = deque(range(len(self.job.tasks)) if step < self.passes else self.positions)
        self.unfinished = len(self.pending)
        self.partials = {}


class Scheduler:
    """Runs jobs on an executor and yields the record of every finished apply task, in the order of completion.

    Parameters
    ----------
    executor
        Any `concurrent.futures.Executor`.
    session
        What the tasks of this run share; also says how many may run at once.
    plan
        Knows the passes of a job, combines their partial results, and builds the work of a task.
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
        self.late: list[TaskRecord] = []
        self._open: list[_Running] = []
        self._flying: dict[Future[TaskRecord], tuple[_Running, int]] = {}

    def run(self, jobs: Iterable[tuple[Job, list[int]]]) -> Generator[TaskRecord, None, None]:
        """Run the given tasks, as positions in their job, of every job.

        Every record is yielded on the calling thread: apply records as they finish, reduce records too (they tell
        progress). On any error, and when the caller stops early, tasks not yet started are cancelled and running
        ones are waited for; the records of those that succeed are left in `late`.

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
                done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
                for future in done:
                    running, position = self._flying.pop(future)
                    record = future.result()
                    self._advance(running, position, record)
                    yield record
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
            running = next((item for item in self._open if item.pending), None)
            if running is None:
                if len(self._open) >= OPEN_JOBS:
                    return
                job, positions = next(queue, (None, []))
                if job is None:
                    return
                running = _Running(job, self._plan.reduce_passes(job), positions)
                running.begin(0)
                if running.pending:
                    self._open.append(running)
                continue
            position = running.pending.popleft()
            work = self._plan.work(running.job, position, running.step, running.state, self._slots)
            with self._session.entered():
                prefetch(work)
            self._flying[self._executor.submit(execute_in, self._session, work)] = (running, position)

    def _advance(self, running: _Running, position: int, record: TaskRecord) -> None:
        """Note a finished task; enter the next pass when it was the last of its pass."""
        running.unfinished -= 1
        if running.step < running.passes:
            running.partials[position] = record.partial
        if running.unfinished:
            return
        if running.step == running.passes:
            self._open.remove(running)
            return
        partials = [running.partials[index] for index in range(len(running.job.tasks))]
        running.state = self._plan.combine(running.job, running.step, partials, running.state)
        running.begin(running.step + 1)
