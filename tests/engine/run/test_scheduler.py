"""The scheduler runs passes in order and a bounded number of tasks, and cancels the rest after an error."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from dovetail.engine.planning.grid import Job, Piece
from dovetail.engine.run import scheduler as run
from dovetail.engine.run.session import Session
from dovetail.engine.run.task import TaskRecord
from dovetail.io.remote.read_ahead import Pool
from dovetail.io.remote.retrying import Patience
from dovetail.io.zarr.chunk_pool import ChunkPool


def _jobs(*counts: int) -> list[tuple[Job, list[int]]]:
    jobs, first = [], 0
    for tensor, count in enumerate(counts):
        job = Job(first, tuple((Piece(tensor, index, index, index + 1),) for index in range(count)))
        jobs.append((job, list(range(count))))
        first += count
    return jobs


def _session(workers: int) -> Session:
    return Session(Patience(), Pool(0), ChunkPool(0), workers)


class _Tasks:
    """Replaces `execute_in`, and records the tasks that ran."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.ran: list[tuple[int, int, Any]] = []
        self.running = self.most_running = 0
        self.fail_at = fail_at
        self.lock = threading.Lock()

    def execute(self, session: Session, work: tuple[int, int, Any]) -> TaskRecord:
        task, step, _ = work
        with self.lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.ran.append(work)
        if task == self.fail_at:
            raise OSError("disk on fire")
        with self.lock:
            self.running -= 1
        return TaskRecord(task, step, partial=(task, step), pieces=(), read_bytes=0, written_bytes=0)


class _Program:
    """Replaces the program of a job, and checks that partial results come in order and that none is missing."""

    def __init__(self, job: Job) -> None:
        self._job = job

    readings = (99, 0)

    def reads(self, step: int, state: Any) -> None:
        return None

    def begin(self, step: int, state: Any) -> list[Any]:
        return []

    def fold(self, step: int, accumulator: list[Any], partial: Any) -> list[Any]:
        assert (self._job.first_task + len(accumulator), step) == partial
        return [*accumulator, partial]

    def finish(self, step: int, accumulator: list[Any], state: Any) -> Any:
        assert len(self._job.tasks) == len(accumulator)
        return (*(state or ()), step)


class _Plan:
    """Replaces a plan; all of its jobs have the same number of passes."""

    def __init__(self, passes: int, program: Callable[[Job], Any] = _Program) -> None:
        self.tensors = defaultdict[int, Any](lambda: SimpleNamespace(input_bytes=0))
        self._passes, self.program = passes, program

    def reduce_passes(self, job: Job) -> int:
        return self._passes if len(job.tasks) > 1 else 0

    def work(self, job: Job, position: int, step: int, state: Any, slots: Any) -> tuple[int, int, Any]:
        return job.first_task + position, step, state


def _scheduler(
    monkeypatch: pytest.MonkeyPatch, tasks: _Tasks, executor: Executor, workers: int, passes: int
) -> run.Scheduler:
    monkeypatch.setattr(run, "execute_in", tasks.execute)
    monkeypatch.setattr(run, "prefetch", lambda work: None)

    session = _session(workers)
    return run.Scheduler(executor, session, _Plan(passes), lambda tensor: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("passes", [0, 1, 3])
def test_every_pass_sees_the_state_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch, workers: int, passes: int
) -> None:
    """Each task runs once in each pass, and between passes all partial results have been folded in chunk order."""
    tasks = _Tasks()
    with ThreadPoolExecutor(workers) as pool:
        records = list(_scheduler(monkeypatch, tasks, pool, workers, passes).run(_jobs(3, 7, 2)))
    assert 12 * (passes + 1) == len(records) == len(tasks.ran)
    for _, step, state in tasks.ran:
        assert tuple(range(step)) == (state or ())


@pytest.mark.parametrize("open_jobs", [1, 2, run.OPEN_JOBS])
def test_no_more_jobs_are_open_than_allowed(monkeypatch: pytest.MonkeyPatch, open_jobs: int) -> None:
    """A job is begun only when fewer than the allowed number are open, and all of them are completed."""
    tasks, begun, ended = _Tasks(), [0], [0]

    class Counting(_Program):
        def begin(self, step: int, state: Any) -> list[Any]:
            begun[0] += step == 0
            assert begun[0] - ended[0] <= open_jobs
            return super().begin(step, state)

    monkeypatch.setattr(run, "execute_in", tasks.execute)
    monkeypatch.setattr(run, "prefetch", lambda work: None)
    with ThreadPoolExecutor(3) as pool:
        made = run.Scheduler(pool, _session(3), _Plan(1, Counting), lambda tensor: None, open_jobs)  # type: ignore[arg-type]
        left = dict.fromkeys(range(6), 3)
        for record in made.run(_jobs(*[3] * 6)):
            if record.step == 1:
                left[record.task // 3] -= 1
                ended[0] += left[record.task // 3] == 0
    assert [0] * 6 == list(left.values())


def test_other_jobs_go_on_while_a_pass_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one job has found may take minutes to work out: the other runs all of its passes meanwhile."""
    tasks, passed = _Tasks(), threading.Event()

    class Slow(_Program):
        def finish(self, step: int, accumulator: list[Any], state: Any) -> Any:
            if self._job.first_task == 0:
                assert passed.wait(30)
            return super().finish(step, accumulator, state)

    monkeypatch.setattr(run, "execute_in", tasks.execute)
    monkeypatch.setattr(run, "prefetch", lambda work: None)
    with ThreadPoolExecutor(2) as pool:
        made = run.Scheduler(pool, _session(2), _Plan(1, Slow), lambda tensor: None)  # type: ignore[arg-type]
        order = []
        for record in made.run(_jobs(2, 2)):
            order.append((record.task, record.step))
            if {(2, 1), (3, 1)} <= set(order):
                passed.set()
    assert [(0, 1), (1, 1)] == sorted(order[-2:])
    assert 8 == len(order)


def test_an_error_while_a_pass_is_finished_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is raised, as one of a task is, and no thread is left."""

    class Failing(_Program):
        def finish(self, step: int, accumulator: list[Any], state: Any) -> Any:
            raise ValueError("no direction")

    tasks = _Tasks()
    monkeypatch.setattr(run, "execute_in", tasks.execute)
    monkeypatch.setattr(run, "prefetch", lambda work: None)
    with ThreadPoolExecutor(2) as pool:
        made = run.Scheduler(pool, _session(2), _Plan(1, Failing), lambda tensor: None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no direction"):
            list(made.run(_jobs(2, 2)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dovetail-finish")]


def test_jobs_of_one_task_have_no_separate_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is one task runs its passes inside the task."""
    tasks = _Tasks()
    with ThreadPoolExecutor(1) as pool:
        records = list(_scheduler(monkeypatch, tasks, pool, 1, 3).run(_jobs(1, 1)))
    assert [(0, 0), (1, 0)] == [(record.task, record.step) for record in records]


def test_only_the_tasks_asked_for_run_their_last_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed job runs its reduce passes over all tasks, and the apply pass only over those that are left."""
    tasks = _Tasks()
    ((job, _),) = _jobs(4)
    with ThreadPoolExecutor(2) as pool:
        list(_scheduler(monkeypatch, tasks, pool, 2, 1).run([(job, [1, 3])]))
    assert [0, 1, 2, 3] == sorted(task for task, step, _ in tasks.ran if step == 0)
    assert [1, 3] == sorted(task for task, step, _ in tasks.ran if step == 1)


def test_the_first_error_cancels_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error reaches the caller; of a thousand tasks only those in the window ran."""
    tasks = _Tasks(fail_at=5)
    with ThreadPoolExecutor(2) as pool, pytest.raises(OSError, match="on fire"):
        list(_scheduler(monkeypatch, tasks, pool, 2, 0).run(_jobs(1000)))
    assert len(tasks.ran) <= 5 + 1 + 2 + run.READ_AHEAD


def test_no_more_tasks_at_once_than_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more tasks run than the executor has workers, and few more are submitted."""
    tasks = _Tasks()
    with ThreadPoolExecutor(3) as pool:
        list(_scheduler(monkeypatch, tasks, pool, 3, 0).run(_jobs(50)))
    assert tasks.most_running <= 3


class _Counted:
    """A partial result that counts how many of its kind are alive."""

    lock = threading.Lock()
    alive = most = 0

    def __init__(self, position: int) -> None:
        self.position = position
        with _Counted.lock:
            _Counted.alive += 1
            _Counted.most = max(_Counted.most, _Counted.alive)

    def __del__(self) -> None:
        with _Counted.lock:
            _Counted.alive -= 1


class _Listing:
    """A program that lists the positions of the folded partial results, and keeps none of the results."""

    readings, reads = (99, 0), _Program.reads

    def __init__(self, job: Job) -> None:
        self._job = job

    def begin(self, step: int, state: Any) -> list[int]:
        return []

    def fold(self, step: int, accumulator: list[int], partial: _Counted) -> list[int]:
        accumulator.append(partial.position)
        return accumulator

    def finish(self, step: int, accumulator: list[int], state: Any) -> list[int]:
        return accumulator


class _LateFirst:
    """Replaces `execute_in`: the very first chunk ends only after `most` tasks of the reduce pass have begun."""

    def __init__(self, most: int) -> None:
        self._most, self._begun, self._all = most, 0, threading.Event()
        self._lock = threading.Lock()
        self.states: list[Any] = []

    def execute(self, session: Session, work: tuple[int, int, Any]) -> TaskRecord:
        task, step, state = work
        if step == 1:
            self.states.append(state)
            return TaskRecord(task, step, partial=None, pieces=(), read_bytes=0, written_bytes=0)
        partial = _Counted(task)
        with self._lock:
            self._begun += 1
            if self._begun == self._most:
                self._all.set()
        if task == 0:
            assert self._all.wait(60)
        return TaskRecord(task, step, partial, pieces=(), read_bytes=0, written_bytes=0)


@pytest.mark.parametrize("workers", [2, 3, 6])
def test_a_late_chunk_bounds_the_partial_results_alive(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """While the first of 200 chunks is late, results wait up to the limit, and then are folded in chunk order.

    Not one more task is begun than the limit; were it fewer, the first chunk would never end here.
    """
    limit = run.unfolded_limit(workers)
    tasks = _LateFirst(limit)
    _Counted.alive = _Counted.most = 0
    monkeypatch.setattr(run, "execute_in", tasks.execute)
    monkeypatch.setattr(run, "prefetch", lambda work: None)
    with ThreadPoolExecutor(workers) as pool:
        scheduler = run.Scheduler(pool, _session(workers), _Plan(1, _Listing), lambda tensor: None)  # type: ignore[arg-type]
        for record in scheduler.run(_jobs(200)):
            assert record.partial is None
    assert [list(range(200))] * 200 == tasks.states
    assert limit == _Counted.most
    assert 0 == _Counted.alive


def test_several_jobs_share_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four open jobs together hold no more partial results than one job may."""
    tasks = _LateFirst(run.unfolded_limit(3))
    _Counted.alive = _Counted.most = 0
    monkeypatch.setattr(run, "execute_in", tasks.execute)
    monkeypatch.setattr(run, "prefetch", lambda work: None)
    with ThreadPoolExecutor(3) as pool:
        scheduler = run.Scheduler(pool, _session(3), _Plan(1, _Listing), lambda tensor: None)  # type: ignore[arg-type]
        records = list(scheduler.run(_jobs(3, 4, 30, 5, 2)))
    assert 2 * 44 == len(records)
    assert _Counted.most <= run.unfolded_limit(3)
