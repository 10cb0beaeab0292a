"""What a worker is asked before it makes a part."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dovetail.engine import plan
from dovetail.engine.errors import MemoryLimitError, OutputError, WorkerVersionError
from dovetail.engine.run.clusters import probe
from dovetail.engine.run.clusters.cluster import Seat
from dovetail.engine.run.clusters.crew import Crew, fair_memory
from dovetail.engine.run.clusters.probe import Answer, Question, ask, load_plan, save_plan, versions
from dovetail.io.errors import CheckpointError
from tests.engine.conftest import Family

SEAT = Seat("tcp://one", 2, 1, 2**30, lambda: False)
GIB = 2**30


@pytest.fixture
def question(family: Family) -> Question:
    """Write a plan, and ask for it, as if another process had written it."""
    path, digest = save_plan(plan(family.recipe_path), family.home, "run")
    probe.forget()
    return Question("run", path, digest, versions(), GIB // 2)


def test_a_worker_that_can(question: Question) -> None:
    """A worker that sees the same plan and inputs says what it has, and keeps the plan until it is told to forget."""
    answer = ask(question, SEAT)
    assert (os.uname().nodename, 2, GIB) == (answer.host, answer.threads, answer.memory_limit_bytes)
    Path(question.plan_path).unlink()
    assert load_plan(question.plan_path, question.plan_digest, SEAT).hash
    probe.forget()
    with pytest.raises(OutputError, match="worker tcp://one does not see the folder of the output: No such file"):
        ask(question, SEAT)


def test_a_client_that_works_too(family: Family) -> None:
    """A process that has written a plan needs not read it, until it is told to forget."""
    written = plan(family.recipe_path)
    path, digest = save_plan(written, family.home, "run")
    Path(path).unlink()
    assert written is load_plan(path, digest, SEAT)
    probe.forget()
    with pytest.raises(OutputError):
        load_plan(path, digest, SEAT)


def test_another_plan(question: Question) -> None:
    """A plan that is not the client's, byte for byte, is not even read."""
    Path(question.plan_path).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(OutputError, match=r"worker tcp://one sees another .*plan\.run than the client has written"):
        ask(question, SEAT)


def test_other_inputs(family: Family, question: Question) -> None:
    """A worker that sees other inputs, or none, is named with the file."""
    (changed,) = family.math.glob("*.safetensors")
    os.utime(changed, (1, 1))
    with pytest.raises(CheckpointError, match=r"worker tcp://one does not see the inputs as the client does: .*math"):
        ask(question, SEAT)
    changed.unlink()
    with pytest.raises(CheckpointError, match=r"worker tcp://one does not see the inputs as the client does: .*math"):
        ask(question, SEAT)


@pytest.mark.parametrize("name", ["dovetail", "numpy", "numba", "kernels", "Python"])
def test_other_versions(question: Question, name: str) -> None:
    """Whatever could change a byte of the output, or keep it from being made, must be of the client's version."""
    wanted = {**question.versions, name: "0.0"}
    with pytest.raises(WorkerVersionError, match=f"^worker tcp://one has {name} .*; expected 0.0, as the client has; "):
        ask(replace(question, versions=wanted), SEAT)


def test_more_memory_than_the_cluster_gives(question: Question) -> None:
    """A limit that a worker would not live to reach is refused."""
    with pytest.raises(MemoryLimitError, match=r"^--memory 1 GiB is more than worker tcp://one may take, which is"):
        ask(replace(question, memory_bytes=GIB), SEAT)


@pytest.mark.parametrize(
    ("available", "processes", "limit", "expected"),
    [(64 * GIB, 1, None, 2 * GIB), (16 * GIB, 16, None, GIB // 2), (64 * GIB, 1, GIB, int(0.6 * GIB))],
)
def test_memory_without_a_word(available: int, processes: int, limit: int | None, expected: int) -> None:
    """Workers share half of what is free, take 2 GiB at most, and less than what ends them."""
    assert expected == fair_memory(available, processes, limit)


def test_a_crew_says_what_it_has() -> None:
    """Workers that differ are told as a range."""
    answers = (Answer("one", 2, None, 64 * GIB), Answer("one", 2, None, 64 * GIB), Answer("two", 4, GIB, 64 * GIB))
    crew = Crew("tcp://x", answers, None, None)
    assert "3 workers x 614 MiB to 2 GiB with 2 threads to 4 threads each on 2 machines (tcp://x)" == str(crew)
    assert 8 == crew.all_threads
    crew = Crew("tcp://x", answers[:1], GIB, 1)
    assert "1 worker x 1 GiB with 1 thread each on 1 machine (tcp://x)" == str(crew)
    assert {"name": "tcp://x", "workers": [{"host": "one", "memory_bytes": GIB, "threads": 1}]} == crew.to_json()
