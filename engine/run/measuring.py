"""Running the reduce passes of a plan alone: for work that finds something out and writes nothing.

Tasks end in any order and are folded in that of the plan, so that what is found depends neither on the workers nor on
the memory limit. A tensor's next pass comes right after the one before, while its bytes are still in the page cache,
and only if something was left open.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.program import reduce_whole
from dovetail.engine.planning.grid import Job
from dovetail.engine.planning.plan import READ_AHEAD, Plan
from dovetail.engine.planning.work import PieceWork, Work
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.session import Session, open_session
from dovetail.engine.run.task import batches, nonfinite_error, prefetch, read_chunk, resident, unmapped
from dovetail.io.files.threads import Threads, result_of
from dovetail.io.source import checked_slot


class Found(Protocol):
    """What a reduce pass finds in one chunk, or all passes in a tensor."""

    @property
    def nonfinite(self) -> NDArray[np.int64]:
        """NaN and infinite elements of every source."""
        ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a step of the work has found."""

    tensors: tuple[tuple[int, Any], ...]
    """Indices in the plan of tensors that are complete, with what all passes have found in each."""
    read_bytes: int
    """Bytes that were read for it."""
    again_bytes: int = 0
    """Bytes that turned out to be needed once more, as something was left open."""


def measure(plan: Plan, budget: Budget) -> Generator[Measurement, None, None]:
    """Run the reduce passes of all tensors of a plan, on threads, and give what they find as tensors are complete.

    Raises
    ------
    NonFiniteError
        An input holds NaN or infinity, and the plan does not keep such values.
    CheckpointError
        An input has changed or vanished since it was opened.
    OSError
        An input cannot be read.

    """
    with open_session(budget, plan.read_ahead_bytes) as session:
        yield from _InOrder(plan, session, budget.open_jobs).run()


@dataclass(slots=True)
class _Pass:
    """One pass over the tensors of a job."""

    job: Job
    """The job."""
    step: int
    """Which reduce pass."""
    state: Any
    """What the passes before it have found."""
    accumulator: Any = None
    """What its chunks so far have been folded into; None before the first."""


class _InOrder:
    """Gives tasks to threads, and folds their results in the order in which they were given.

    Parameters
    ----------
    plan
        What is measured.
    session
        What the tasks share.
    open_jobs
        Jobs of several tasks that may be under way at once, each with an accumulator.

    """

    def __init__(self, plan: Plan, session: Session, open_jobs: int) -> None:
        self._plan, self._session, self._room = plan, session, open_jobs
        self._jobs = deque(plan.jobs)
        self._waiting: deque[tuple[_Pass, int]] = deque()
        self._flying: deque[tuple[_Pass, int, Future[tuple[list[Any], int]]]] = deque()

    def run(self) -> Iterator[Measurement]:
        with Threads(self._session.workers, thread_name_prefix="dovetail-measure") as pool:
            try:
                while True:
                    while len(self._flying) < self._session.workers + READ_AHEAD and self._has_next():
                        self._submit(pool, *self._waiting.popleft())
                    if not self._flying:
                        return
                    entered, position, future = self._flying.popleft()
                    found, read_bytes = result_of(future)
                    complete = self._take(entered, position, found)
                    yield Measurement(complete, read_bytes, self._again_bytes(entered, position, complete))
            finally:
                self._session.patience.give_up()  # so that no task goes on waiting for a server
                for _, _, future in self._flying:
                    future.cancel()

    def _again_bytes(self, entered: _Pass, position: int, complete: tuple[tuple[int, Any], ...]) -> int:
        """Give the bytes of a tensor whose pass has ended with something left open."""
        pieces = entered.job.tasks[position]
        ended = position == len(entered.job.tasks) - 1
        return 0 if complete or not ended else self._plan.tensors[pieces[0].tensor].input_bytes

    def _has_next(self) -> bool:
        """Whether there is a task to give away; opens the next job if none waits and there is room for it."""
        if not self._waiting and self._jobs and (self._room or len(self._jobs[0].tasks) == 1):
            job = self._jobs.popleft()
            self._room -= len(job.tasks) > 1
            self._enter(_Pass(job, 0, None))
        return bool(self._waiting)

    def _enter(self, entered: _Pass) -> None:
        """Put the tasks of a pass before all others that wait; passes that read nothing are left out.

        Programs that find something out take no samples, as `Program.frugal` says.
        """
        program, several = self._plan.program(entered.job), len(entered.job.tasks) > 1
        while several and (reads := program.reads(entered.step, entered.state)) is not None:
            assert not reads, "samples are taken by merges alone"
            entered.step += 1
        self._waiting.extendleft((entered, position) for position in reversed(range(len(entered.job.tasks))))

    def _submit(self, pool: Threads, entered: _Pass, position: int) -> None:
        work = self._plan.work(entered.job, position, entered.step, entered.state, no_slot)
        with self._session.entered():
            prefetch(work)
        self._flying.append((entered, position, pool.submit(_find, self._session, work)))

    def _take(self, entered: _Pass, position: int, found: list[Any]) -> tuple[tuple[int, Any], ...]:
        """Fold what a task has found; give the tensors that are complete now."""
        job, pieces = entered.job, entered.job.tasks[position]
        if len(job.tasks) == 1:
            return tuple((piece.tensor, each) for piece, each in zip(pieces, found, strict=True))
        program = self._plan.program(job)
        if entered.accumulator is None:
            entered.accumulator = program.begin(entered.step, entered.state)
        entered.accumulator = program.fold(entered.step, entered.accumulator, found[0])
        if position < len(job.tasks) - 1:
            return ()
        state = program.finish(entered.step, entered.accumulator, entered.state)
        entered.accumulator = None
        if state.open:
            self._enter(_Pass(job, entered.step + 1, state))
            return ()
        self._room += 1
        return ((pieces[0].tensor, state),)


@checked_slot
class _NoSlot:
    """The place of an output that there is none of."""

    def write(self, start: int, data: NDArray[np.uint8]) -> None:
        """Never called."""
        raise AssertionError("nothing is written")

    def file_place(self, start: int, stop: int) -> None:
        """Never called."""
        raise AssertionError("nothing is written")


_NO_SLOT = _NoSlot()


def no_slot(index: int) -> _NoSlot:
    """Give the place of a tensor that is not written."""
    return _NO_SLOT


def _find(session: Session, work: Work) -> tuple[list[Any], int]:
    """Run one pass of one task: give a partial result, or the whole of what is found in each of several tensors."""
    found, read_bytes = list[Any](), 0
    with session.entered():
        for batch in batches(work.pieces):
            with resident(batch.mapped):
                for piece in batch.pieces:
                    with contextlib.nullcontext() if batch.all_mapped else resident(unmapped(piece)):
                        found.append(_find_in(piece, work))
                    read_bytes += sum(item.stored_part(*piece.window) for item in piece.inputs)
    return found, read_bytes


def _find_in(piece: PieceWork, work: Work) -> Found:
    chunk = read_chunk(piece)
    program = piece.program
    found: Found = reduce_whole(program, chunk) if piece.whole else program.reduce(work.step, chunk, piece.state)
    if not work.keep_nonfinite and found.nonfinite.any():
        raise nonfinite_error(piece, chunk)
    return found
