"""The projection of memory includes the partial results of reduce passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine.errors import MemoryLimitError
from dovetail.engine.methods.program import OnePass
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run import prepare
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.scheduler import unfolded_limit
from tests.checkpoints import cabs_recipe, write_checkpoint

MIB = 2**20
RESIDENT_BYTES = 200 * MIB


@dataclass(frozen=True)
class Heavy(OnePass):
    """A program with large partial results, for a plan that is never run."""

    partial: int
    accumulated: int

    @property
    def reduce_passes(self) -> int:
        return 1

    def partial_bytes(self, elements: int) -> int:
        return self.partial

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        return chunks * self.accumulated

    def scratch_bytes(self, elements: int) -> int:
        return 0

    def apply(self, chunk: Any, state: Any, out: Any) -> Any:
        raise AssertionError("never run")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Plan a merge of six tensors of 5 chunks each and one of a single chunk."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 1000)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    monkeypatch.setattr(prepare, "resident_bytes", lambda: RESIDENT_BYTES)
    tensors = {f"t{number}": np.ones((5, 1000), np.float32) for number in range(6)} | {"small": np.ones(7, np.float32)}
    folders = [write_checkpoint(tmp_path / name, tensors) for name in ("base", "tuned")]
    made = make_plan(cabs_recipe(tmp_path / "r.yml", folders[0], folders[1:], dtype="float32"))
    assert [5] * 6 == [len(job.tasks) for job in made.jobs if len(job.tasks) > 1]
    return made


def with_programs(plan: Plan, programs: list[Heavy]) -> Plan:
    """Give the plan other programs; the tensor of one chunk gets one that has no partial results."""
    left = iter(programs)
    tensors = [replace(each, program=next(left) if each.chunk_count > 1 else Heavy(0, 0)) for each in plan.tensors]
    return replace(plan, tensors=tuple(tensors))


def test_the_projection_counts_accumulators_and_a_window_of_partial_results(plan: Plan) -> None:
    """The projection has four accumulators, and as many of the largest partial results as can be alive at once."""
    light, _ = prepare.prepare(with_programs(plan, [Heavy(0, 0)] * 6), RunOptions(2**40, workers=3))
    programs = [Heavy(size * MIB, kept * MIB) for size, kept in ((3, 7), (5, 1), (9, 2), (4, 8), (2, 9), (1, 6))]
    heavy, _ = prepare.prepare(with_programs(plan, programs), RunOptions(2**40, workers=3))
    expected = 5 * (9 + 8 + 7 + 6) * MIB + unfolded_limit(3) * 9 * MIB
    assert expected == heavy.projected_bytes - light.projected_bytes


def test_a_limit_that_partial_results_exceed_is_refused(plan: Plan) -> None:
    """A gigabyte of accumulator does not fit a limit of 900 MiB; the limit named in the error does."""
    heavy = with_programs(plan, [Heavy(MIB, 200 * MIB)] + [Heavy(0, 0)] * 5)
    with pytest.raises(MemoryLimitError, match="too small") as caught:
        prepare.prepare(heavy, RunOptions(900 * MIB, workers=1))
    enough = int(caught.value.action.split("--memory ")[1].split("MiB")[0])
    assert enough > 1200
    budget, _ = prepare.prepare(heavy, RunOptions(enough * MIB, workers=4))
    assert budget.projected_bytes <= enough * MIB


def test_accumulators_of_one_job_do_where_those_of_four_do_not_fit(plan: Plan) -> None:
    """Under a limit without room for four accumulators, one job at a time is open, and the projection has only it."""
    many = with_programs(plan, [Heavy(MIB, 20 * MIB)] * 6)
    roomy, _ = prepare.prepare(many, RunOptions(2**40, workers=1))
    assert grid.OPEN_JOBS == roomy.open_jobs
    exact, _ = prepare.prepare(many, RunOptions(roomy.projected_bytes, workers=1))
    assert grid.OPEN_JOBS == exact.open_jobs
    tight, _ = prepare.prepare(many, RunOptions(roomy.projected_bytes - 1, workers=1))
    assert (1, 3 * 5 * 20 * MIB) == (tight.open_jobs, roomy.projected_bytes - tight.projected_bytes)


def test_tensors_of_one_chunk_hold_their_partial_result_in_their_task(plan: Plan) -> None:
    """Where all passes run in one task, its memory counts the accumulator and the partial result."""
    small = next(tensor for tensor in plan.tensors if tensor.chunk_count == 1)
    idle, heavy = (replace(small, program=Heavy(partial, kept)) for partial, kept in ((0, 0), (300, 5000)))
    assert 5300 == heavy.scratch_bytes(0, 7) - idle.scratch_bytes(0, 7)
    assert 0 == heavy.scratch_bytes(0, 6) - idle.scratch_bytes(0, 6)
