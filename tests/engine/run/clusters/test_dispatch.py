"""Handing parts out, to workers that are threads of this process and end, or are slow, as a test wishes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from dovetail.engine import events
from dovetail.engine.errors import PartTakenError, RecipeError, WorkerLostError
from dovetail.engine.run.clusters import dispatch as module
from dovetail.engine.run.clusters import patience
from dovetail.engine.run.clusters.cluster import Job, WorkerGoneError
from dovetail.engine.run.clusters.dispatch import Dispatch
from dovetail.engine.run.clusters.patience import Patience
from dovetail.engine.run.clusters.probe import Answer, Question, ask

Making = Callable[[str, int], Any]
"""What a worker does with a part, by its name and the part's number."""


class Given:
    """A job of a worker that is a thread."""

    def __init__(self, work: Callable[[], Any], wake: Callable[[], None]) -> None:
        self.forsaken, self._ended = False, threading.Event()
        self._work, self._wake, self._answer, self._error = work, wake, None, None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._answer = self._work()
        except Exception as error:
            self._error = error
        self._ended.set()
        self._wake()

    def done(self) -> bool:
        return self._ended.is_set()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._answer

    def forsake(self) -> None:
        self.forsaken = True


class Workers:
    """A cluster of threads."""

    name, asks = "threads", True

    def __init__(self, names: list[str], make: Making) -> None:
        self.there, self.make = names, make
        self.given: list[tuple[str, int]] = []
        self.stopped: list[str] = []
        self.wanted: list[int] = []

    def workers(self) -> list[str]:
        return [*self.there]

    def start(self, worker: str, job: Job, request: Any, wake: Callable[[], None]) -> Given:
        if job is ask:
            return Given(lambda: Answer("host", 1, None, 2**30), wake)
        self.given.append((worker, request))
        return Given(lambda: self.make(worker, request), wake)

    def want(self, workers: int) -> None:
        self.wanted.append(workers)

    def stop(self, run: str) -> None:
        self.stopped.append(run)

    def close(self) -> None:
        raise AssertionError("whoever has opened it closes it")


def hand_out(workers: Workers, parts: list[int], left: Callable[[int], int] = lambda part: 1) -> list[Any]:
    """Have parts made; give what was yielded, and what was told."""
    told: list[Any] = []
    question = Question("run", "", "", {}, None)
    dispatch = Dispatch(
        workers,
        Patience(workers, told.append),
        question,
        lambda request, seat: None,
        lambda part, answer: part,
        left,
        told.append,
    )
    dispatch.meet()
    return [*(each for each in dispatch.run(parts) if each is not None), *told]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and wait for little."""
    monkeypatch.setattr(module, "_LOOK_S", 0.0)
    monkeypatch.setattr(module, "_TAKEN_S", 0.0)
    monkeypatch.setattr(module, "POLL_S", 0.01)


def test_one_part_at_a_time() -> None:
    """A worker that is slow makes one part while another makes all others, each once."""
    others = threading.Event()
    made: list[int] = []

    def make(worker: str, part: int) -> str:
        if worker == "slow":
            others.wait(10)
        else:
            made.append(part)
            if len(made) == 5:
                others.set()
        return worker

    workers = Workers(["quick", "slow"], make)
    found = hand_out(workers, [1, 2, 3, 4, 5, 6])
    assert [1, 2, 3, 4, 5, 6] == sorted(part for part, _ in found)
    assert ["quick"] * 5 + ["slow"] == sorted(worker for _, worker in found)
    assert [] == workers.stopped


def test_workers_are_wanted() -> None:
    """A cluster that starts workers by demand is told of one worker while it has none, then of all parts that wait."""
    workers = Workers([], lambda worker, part: workers.there.append("b") or worker)
    workers.want = lambda count: workers.wanted.append(count) or workers.there or workers.there.append("a")  # type: ignore[method-assign,func-returns-value]
    hand_out(workers, [1, 2, 3, 4])
    assert [1, 3] == workers.wanted[:2]
    assert 0 == workers.wanted[-1]


def test_a_lost_worker() -> None:
    """The part of a worker that is gone is given to another, and a warning says so."""

    def make(worker: str, part: int) -> str:
        if worker == "a":
            workers.there.remove("a")
            raise WorkerGoneError
        return worker

    workers = Workers(["a", "b"], make)
    found = hand_out(workers, [1, 2, 3])
    assert [(1, "b"), (2, "b"), (3, "b")] == sorted(each for each in found if isinstance(each, tuple))
    assert [events.Notice("warning", "Worker a is gone; part 1 is given to another one.")] == found[3:]


def test_a_worker_that_is_lost_after_its_work() -> None:
    """A part of which nothing is left is given to nobody again, and nobody is warned."""

    def make(worker: str, part: int) -> str:
        if worker == "a":
            workers.there.remove("a")
            raise WorkerGoneError
        return worker

    workers = Workers(["a", "b"], make)
    found = hand_out(workers, [1, 2], lambda part: 0)
    assert [(1, None), (2, "b")] == sorted(each for each in found if isinstance(each, tuple))
    assert [events.Notice("info", "Worker a is gone; its part 1 is done.")] == found[2:]
    assert [("a", 1), ("b", 2)] == sorted(workers.given)


@pytest.mark.parametrize("progress", [False, True])
def test_a_part_that_loses_its_workers(progress: bool) -> None:
    """A part may lose three workers in a row, unless chunks of it become done in between."""
    lost = iter(range(8))

    def make(worker: str, part: int) -> str:
        if next(lost, None) is not None:
            raise WorkerGoneError
        return worker

    left = iter(range(9, 0, -1))
    workers = Workers(["a"], make)
    if progress:
        assert (1, "a") in hand_out(workers, [1], lambda part: next(left))
        return
    with pytest.raises(WorkerLostError, match=r"^3 workers ended while making part 1, the last one a, and no further"):
        hand_out(workers, [1])
    assert ["run"] == workers.stopped


def test_all_workers_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no worker is left, and none comes for a while, the error says how to go on."""
    monkeypatch.setattr(patience, "WAIT_S", 0.1)

    def make(worker: str, part: int) -> str:
        workers.there.clear()
        raise WorkerGoneError

    workers = Workers(["a"], make)
    with pytest.raises(
        WorkerLostError, match=r"^threads has no worker, and none has come in 0 s; .* run the same command again"
    ):
        hand_out(workers, [1])


def test_a_new_worker_comes() -> None:
    """When all workers are gone and a new one comes, it is asked what it is, and goes on."""

    def make(worker: str, part: int) -> str:
        if worker == "a":
            workers.there[:] = []
            threading.Timer(0.1, workers.there.append, ["b"]).start()
            raise WorkerGoneError
        return worker

    workers = Workers(["a"], make)
    found = hand_out(workers, [1])
    assert (1, "b") in found
    assert "threads has no workers; waiting up to 600 s for some." in [getattr(each, "text", "") for each in found]


def test_a_lost_worker_that_still_works() -> None:
    """A part that a process still makes which seemed lost is asked for again until that has ended."""
    refusals = iter(range(3))

    def make(worker: str, part: int) -> str:
        if next(refusals, None) is not None:
            raise PartTakenError("another process is making part 1")
        return worker

    workers = Workers(["a"], make)
    assert [(1, "a")] == hand_out(workers, [1])
    assert 4 == len(workers.given)


def test_an_error_stops_all() -> None:
    """When a worker cannot make its part, the others are told to stop, and waited for."""
    stopping = threading.Event()
    ended: list[str] = []

    class Stopping(Workers):
        def stop(self, run: str) -> None:
            super().stop(run)
            stopping.set()

    def make(worker: str, part: int) -> str:
        if worker == "a":
            raise RecipeError("wrong")
        stopping.wait(10)
        ended.append(worker)
        return worker

    workers = Stopping(["a", "b"], make)
    with pytest.raises(RecipeError, match="wrong"):
        hand_out(workers, [1, 2, 3])
    assert (["run"], ["b"]) == (workers.stopped, ended)


def test_a_worker_without_dovetail() -> None:
    """A worker that cannot load what it is sent is named, with what it needs."""

    class Bare(Workers):
        def start(self, worker: str, job: Job, request: Any, wake: Callable[[], None]) -> Given:
            def fail() -> None:
                raise ModuleNotFoundError("No module named 'dovetail'")

            return Given(fail, wake)

    question = Question("run", "", "", {"dovetail": "9.9"}, None)
    workers = Bare(["a"], lambda worker, part: None)
    dispatch = Dispatch(
        workers,
        Patience(workers, events.ignore),
        question,
        lambda request, seat: None,
        lambda part, answer: part,
        lambda part: 0,
        events.ignore,
    )
    with pytest.raises(
        WorkerLostError, match=r"^worker a cannot load Dovetail .No module named 'dovetail'.; expected Dovetail 9.9, as"
    ):
        dispatch.meet()
