"""Handing parts out to the workers of a cluster: one at a time to each, until all are made.

A part whose worker ends is given to another one, which continues from the journal that is left. Workers may come and
go; when all have gone, new ones are waited for. No chunk passes through here, so that one thread is enough for any
number of workers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from dovetail.engine import events
from dovetail.engine.errors import PartTakenError, WorkerLostError
from dovetail.engine.run.clusters import patience as waiting
from dovetail.engine.run.clusters.cluster import Cluster, Job, Started, WorkerGoneError
from dovetail.engine.run.clusters.patience import Patience
from dovetail.engine.run.clusters.probe import Answer, Question, ask
from dovetail.engine.text import counted
from dovetail.io.files.interrupts import check_interrupts
from dovetail.io.files.threads import POLL_S

FIRST_ANSWERS_S: Final = 10.0
"""Seconds for which no part begins because a worker has not answered yet; a busy one is asked before its first part."""

MOST_LOST: Final = 3
"""Workers that a part may lose without another chunk of it being done."""

_LOOK_S: Final = 0.5
"""Seconds between two questions to the cluster who is there."""

_STOPPING_S: Final = 30.0
"""Seconds to wait until workers have stopped."""

_TAKEN_S: Final = 1.0
"""Seconds after which a part is handed out again that a lost worker was still making."""


@dataclass(slots=True)
class _Making:
    """A part that a worker is making."""

    part: int
    """Its number."""
    job: Started
    """The job."""


@dataclass(slots=True)
class _History:
    """What has happened to a part."""

    lost: int = 0
    """Workers that were lost since another chunk was done."""
    left: int = 0
    """Chunks that were left when the last one was lost."""
    taken: float | None = None
    """When it was first found that somebody else makes it, by the monotonic clock."""
    not_before: float = 0.0
    """When it may be handed out again, by the monotonic clock."""


@dataclass
class Dispatch:
    """One run over the parts that are left."""

    cluster: Cluster
    """Who makes them."""
    patience: Patience
    """Knows who is there."""
    question: Question
    """What every worker is asked first."""
    job: Job
    """Makes a part; it answers None if it was stopped."""
    request: Callable[[int, Answer | None], Any]
    """Gives the request for a part, by its number, and what its worker has said of itself, if it has been asked."""
    chunks_left: Callable[[int], int]
    """Gives the number of chunks of a part that are not done."""
    listen: events.Listener
    """Receives warnings about lost workers."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """What the workers have said of themselves."""

    def __post_init__(self) -> None:
        self._wake = threading.Event()
        self._there: list[str] = []
        self._asked: dict[str, Started] = {}
        self._making: dict[str, _Making] = {}
        self._waiting: deque[int] = deque()
        self._left_whole: list[int] = []
        self._history: dict[int, _History] = {}
        self._looked = 0.0

    def meet(self) -> None:
        """Ask all workers what they are, and wait for their answers.

        Raises
        ------
        DovetailError
            A worker cannot take part.
        WorkerLostError
            There is none, and none has come.

        """
        self._look()
        began = time.monotonic()
        try:
            while not self.answers if self.cluster.asks else not self._there:
                self._turn()
            while self._asked and time.monotonic() - began < FIRST_ANSWERS_S:
                self._turn()
        except BaseException:
            self._forsake()
            raise

    def run(self, parts: Iterable[int]) -> Generator[tuple[int, Any] | None, None, None]:
        """Have parts made, and yield the number and the answer of each that is done; None now and then meanwhile.

        The answer is None where the worker was lost between the last chunk of its part and its answer.

        When the caller stops early, or anything fails, the workers are stopped and waited for.

        Raises
        ------
        DovetailError
            A worker cannot make its part.
        WorkerLostError
            All workers are gone, or a part has lost too many.

        """
        self._waiting.extend(parts)
        try:
            while self._waiting or self._making or self._left_whole:
                self._hand_out()
                self.cluster.want(len(self._waiting))
                self._turn()
                yield from self._take()
                yield None
        except BaseException:
            self._stop()
            raise
        finally:
            self._forsake()

    def _forsake(self) -> None:
        """Wait for no more answers of workers that have not begun."""
        for job in self._asked.values():
            job.forsake()

    def _turn(self) -> None:
        """Wait a little, answer requests to stop, and look who is there."""
        check_interrupts()
        self._wake.wait(POLL_S)
        self._wake.clear()
        if time.monotonic() - self._looked >= _LOOK_S:
            self._look()
        for worker in [worker for worker, job in self._asked.items() if job.done()]:
            with contextlib.suppress(WorkerGoneError):
                self.answers[worker] = self._answer(worker, self._asked.pop(worker))

    def _answer(self, worker: str, job: Started) -> Answer:
        """Take the answer of a worker to the question what it is."""
        try:
            found = job.result()
        except ImportError as error:
            raise WorkerLostError(
                f"worker {worker} cannot load Dovetail ({error})",
                f"Dovetail {self.question.versions['dovetail']}, as the client has",
                "install it on all machines, and start the workers again",
            ) from error
        assert isinstance(found, Answer)
        return found

    def _look(self) -> None:
        """Find out who is there: ask those that have come, and give the parts of those that have gone to others."""
        self._there, self._looked = self.patience.workers(), time.monotonic()
        for worker in (self.cluster.asks and self._there) or ():
            if worker not in self.answers and worker not in self._asked:
                self._asked[worker] = self.cluster.start(worker, ask, self.question, self._wake.set)
        for worker in {*self.answers, *self._asked} - {*self._there}:
            self.answers.pop(worker, None)
            if worker in self._asked:
                self._asked.pop(worker).forsake()
        for worker in self._making.keys() - {*self._there}:
            if not self._making[worker].job.done():
                self._lose(worker)

    def _hand_out(self) -> None:
        """Give a part to every worker that has none."""
        ready = [*self.answers] if self.cluster.asks else self._there
        now = time.monotonic()
        for worker in ready:
            if worker in self._making:
                continue
            part = next((part for part in self._waiting if self._past(part).not_before <= now), None)
            if part is None:
                return
            self._waiting.remove(part)
            job = self.cluster.start(worker, self.job, self.request(part, self.answers.get(worker)), self._wake.set)
            self._making[worker] = _Making(part, job)

    def _take(self) -> Generator[tuple[int, Any], None, None]:
        """Take the answers that are there."""
        for worker in [worker for worker, making in self._making.items() if making.job.done()]:
            part = self._making[worker].part
            try:
                answer = self._making[worker].job.result()
                if answer is None:  # its worker is about to end
                    raise WorkerGoneError
            except WorkerGoneError:
                self._lose(worker)
                continue
            except PartTakenError:
                del self._making[worker]
                self._put_off(part)
                continue
            del self._making[worker]
            yield part, answer
        while self._left_whole:
            yield self._left_whole.pop(), None

    def _past(self, part: int) -> _History:
        return self._history.setdefault(part, _History())

    def _lose(self, worker: str) -> None:
        """Let another worker continue the part of one that has ended, unless nothing is left of it."""
        making = self._making.pop(worker)
        making.job.forsake()
        self.answers.pop(worker, None)  # if it comes back, it is asked again
        past, left = self._past(making.part), self.chunks_left(making.part)
        if not left:
            self._left_whole.append(making.part)
            self.listen(events.Notice("info", f"Worker {worker} is gone; its part {making.part} is done."))
            return
        past.lost, past.left = (past.lost if left == past.left else 0) + 1, left
        if past.lost >= MOST_LOST:
            raise WorkerLostError(
                f"{counted(past.lost, 'worker')} ended while making part {making.part}, the last one {worker}, and no "
                "further chunk of it was done",
                "workers that live until a chunk is done",
                "see in their logs whether memory was short (--memory), and run the same command again to continue",
            )
        self._waiting.appendleft(making.part)
        text = f"Worker {worker} is gone; part {making.part} is given to another one."
        self.listen(events.Notice("warning", text))

    def _put_off(self, part: int) -> None:
        """Wait for a worker that the cluster takes for lost, and that still makes a part."""
        past, now = self._past(part), time.monotonic()
        past.taken = past.taken or now
        if now - past.taken > waiting.WAIT_S:
            raise PartTakenError(
                f"another process has been making part {part} for {waiting.WAIT_S:,.0f} s",
                "one process for one part",
                "end it, or wait for its end, and run the same command again to continue",
            )
        past.not_before = now + _TAKEN_S
        self._waiting.append(part)

    def _stop(self) -> None:
        """Stop all workers, and wait until they have put what they have done into their journals."""
        self.cluster.stop(self.question.run)
        began = time.monotonic()
        while any(not making.job.done() for making in self._making.values()):
            if time.monotonic() - began > _STOPPING_S:
                break
            self._wake.wait(POLL_S)
            self._wake.clear()
        for making in self._making.values():
            making.job.forsake()
