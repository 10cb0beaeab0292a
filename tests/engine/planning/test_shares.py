"""Dividing a plan among processes: everything once, balanced by bytes, the same for all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.planning import shares
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.planning.shares import Unit, balanced, divide, heaviest, resized, share_jobs, tensor_costs, units
from dovetail.engine.planning.storing import plan_store
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from tests.engine.conftest import Family

COSTS = st.lists(st.integers(0, 10**12), max_size=60)


@given(COSTS, st.integers(1, 40))
def test_everything_is_divided_once(costs: list[int], count: int) -> None:
    """Each unit belongs to one part, whole; the load of the heaviest is what `heaviest` says."""
    found = [Unit((2 * place, 2 * place + 1), cost) for place, cost in enumerate(costs)]
    divided = divide(found, count)
    assert count == len(divided)
    assert list(range(2 * len(costs))) == sorted(itertools.chain(*divided))
    assert all(shard ^ 1 in share for share in divided for shard in share)
    loads = [sum(costs[shard // 2] for shard in share) // 2 for share in divided]
    assert max(loads) == heaviest(costs, count)


@given(COSTS.filter(bool), st.integers(1, 40))
def test_no_part_has_much_more_than_its_share(costs: list[int], count: int) -> None:
    """The largest goes first, each to who has least: nobody has more than a fair share and the largest unit."""
    assert heaviest(costs, count) <= sum(costs) / count + max(costs)


@pytest.mark.parametrize("count", [2, 3, 5, 7, 16, 64, 1000])
def test_shards_of_a_real_model_are_balanced(count: int) -> None:
    """For the shapes of a model of 8 billion parameters, no part moves over 10% more than a fair share can be."""
    layer = [4096 * 4096, 1024 * 4096, 1024 * 4096, 4096 * 4096, *[14336 * 4096] * 3, 4096, 4096]
    sizes = 2 * np.array([128256 * 4096, *layer * 32, 4096, 128256 * 4096], np.int64)
    costs = 4 * sizes
    limit = shares.limit_for(SafetensorsFormat(), sizes, costs, count)
    found = np.add.reduceat(costs, SafetensorsFormat(limit).shard_starts(sizes))
    least = max(costs.sum() / count, costs.max())
    assert heaviest(found.tolist(), count) <= 1.1 * least
    if count == 2:
        assert limit > 10**9  # no smaller than the balance needs


def test_a_plan_of_a_thousand_parts_lays_out_once(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of shards is found from the sizes of tensors; files are laid out for the size that was found alone."""
    plan = make_plan(family.recipe_path)
    made = []
    lay_out = shares.lay_out
    monkeypatch.setattr(shares, "lay_out", lambda *given: made.append(1) or lay_out(*given))
    assert 9 == len(balanced(plan, 1000).layout.shards)
    assert [1] == made


def test_a_plan_with_small_shards_stays(family: Family) -> None:
    """One part needs no other shards, nor does a format without a size; the hash is that of a merge with this size."""
    plan = make_plan(family.recipe_path)
    zarr = make_plan(family.recipe_path, PlanOptions(ZarrFormat()))
    assert plan is balanced(plan, 1)
    assert zarr is balanced(zarr, 8)
    assert make_plan(family.recipe_path, PlanOptions(SafetensorsFormat(20_000))).hash == resized(plan, 20_000).hash


def test_passes_count(family: Family) -> None:
    """The bytes of a tensor are those of all passes, and those written."""
    plan = make_plan(family.recipe_path)
    assert plan.read_bytes + 74_880 == tensor_costs(plan).sum()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_jobs_are_divided_piece_by_piece(family: Family, count: int) -> None:
    """A batch of small tensors is divided where its tensors lie in files of several parts; every piece is made once."""
    plan = balanced(make_plan(family.recipe_path), count)
    pieces = [piece for job in plan.jobs for task in job.tasks for piece in task]
    found = [
        piece
        for share in divide(units(plan, tensor_costs(plan)), count)
        for job in share_jobs(plan, share)
        for task in job.tasks
        for piece in task
    ]
    assert sorted(pieces, key=str) == sorted(found, key=str)


def test_outputs_of_one_problem_stay_together(family: Family) -> None:
    """A task writes marks and values of a tensor: their arrays are one unit."""
    plan = plan_store(family.recipe_path, PlanOptions()).plan
    found = units(plan, tensor_costs(plan))
    names = [
        {plan.layout.shards[shard].file_name.split(".marks")[0].split(".values")[0] for shard in each.shards}
        for each in found
    ]
    assert all(1 == len(each) for each in names)
    assert len(plan.layout.shards) == sum(len(each.shards) for each in found)
