"""Dividing a merge among processes that know nothing of each other: whole shards for each, balanced by bytes.

The division is computed from the plan and the number of parts alone, so that every process finds the same. Where the
size of shards can be chosen, it is made as small as the balance needs, and no smaller.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.planning.assembly import assemble
from dovetail.engine.planning.grid import Job
from dovetail.engine.planning.placing import lay_out
from dovetail.engine.planning.plan import Plan
from dovetail.io.output_format import OutputFormat

BALANCE: Final = 1.05
"""How much more than a fair share, or than the largest tensor if that is more, the largest part may move."""

_SHARDS_PER_PART: Final = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)

Shares = tuple[tuple[int, ...], ...]
"""For each part, the positions in `Layout.shards` of the shards that it makes."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Shards that one process makes: one, or several of which one task writes parts."""

    shards: tuple[int, ...]
    """Positions in `Layout.shards`."""
    moved_bytes: int
    """Bytes that are read, in all passes, and written for them."""


def tensor_costs(plan: Plan) -> NDArray[np.int64]:
    """Give the bytes that are read, in all passes, and written for each tensor."""
    return np.array([item.moved_bytes for item in plan.tensors], np.int64)


def units(plan: Plan, costs: NDArray[np.int64]) -> list[Unit]:
    """List what can be divided, in the order of the shards; `costs` are those of the tensors."""
    shards = np.array([placed.shard for placed in plan.layout.tensors], np.int64)
    if not len(shards):
        return [Unit(tuple(range(len(plan.layout.shards))), 0)]
    firsts = np.flatnonzero(np.diff(shards, prepend=-1))
    # A problem with several outputs is one task: shards that its outputs lie in belong together.
    first_of_unit = [place for place in firsts.tolist() if plan.tensors[place].output == 0]
    sums = np.add.reduceat(costs, first_of_unit).tolist()
    begins = shards[first_of_unit].tolist()
    ends = [*begins[1:], len(plan.layout.shards)]
    return [Unit(tuple(range(*span)), cost) for span, cost in zip(zip(begins, ends, strict=True), sums, strict=True)]


def divide(found: Sequence[Unit], count: int) -> Shares:
    """Divide units among parts: the largest first, each to the part that has least so far; a part may get none."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, part) for part in range(count)]
    for unit in sorted(found, key=lambda unit: (-unit.moved_bytes, unit.shards)):
        load, part = heapq.heappop(loads)
        shares[part] += unit.shards
        heapq.heappush(loads, (load + unit.moved_bytes, part))
    return tuple(tuple(sorted(share)) for share in shares)


def heaviest(costs: Sequence[int], count: int) -> int:
    """Give the load of the part that has most, when `divide` has divided units of such costs."""
    loads = [0] * count
    for cost in sorted(costs, reverse=True):
        heapq.heappushpop(loads, loads[0] + cost)
    return max(loads)


def balanced(plan: Plan, count: int) -> Plan:
    """Lay a plan out so that `count` parts of it move about the same number of bytes.

    Parameters
    ----------
    plan
        The plan of the merge as it is asked for.
    count
        Number of parts.

    Returns
    -------
    Plan
        The plan of the same merge with smaller shards, of the largest size with which no part moves more than `BALANCE`
        times a fair share, or times the largest tensor if that is more. The same plan where its shards are small
        enough, or have no size that can be chosen.

    """
    form = plan.options.format
    if form.shard_limit_bytes is None or count == 1 or not plan.tensors:
        return plan
    sizes = np.array([item.length * item.dtype.itemsize for item in plan.tensors], np.int64)
    return resized(plan, limit_for(form, sizes, tensor_costs(plan), count))


def limit_for(form: OutputFormat[Any], sizes: NDArray[np.int64], costs: NDArray[np.int64], count: int) -> int | None:
    """Find the largest size of shards, up to that of a format, with which parts are balanced as `balanced` says.

    Parameters
    ----------
    form
        The format, with the largest size.
    sizes, costs
        For each tensor, its bytes in the output, and those that are read and written for it.
    count
        Number of parts.

    Returns
    -------
    int or None
        Bytes; where no size balances the parts so well, that which does it best. None if no size can be chosen.

    """
    if (limit := form.shard_limit_bytes) is None:
        return None
    enough = BALANCE * max(int(costs.sum()) / count, int(costs.max()))
    candidates = [limit, *(int(sizes.sum() / (count * each)) for each in _SHARDS_PER_PART)]
    loads: dict[int, int] = {}
    for size in sorted({max(1, each) for each in candidates if each <= limit}, reverse=True):
        starts = form.with_shard_limit(size).shard_starts(sizes)
        loads[size] = heaviest(np.add.reduceat(costs, starts).tolist(), count)
        if loads[size] <= enough:
            return size
    return min(loads, key=lambda size: (loads[size], -size))


def resized(plan: Plan, limit_bytes: int | None) -> Plan:
    """Lay a plan out anew with shards of another size; the same plan if that is None or the size that they have."""
    form = plan.options.format
    if limit_bytes is None or limit_bytes == form.shard_limit_bytes:
        return plan
    form = form.with_shard_limit(limit_bytes)
    _, layout = lay_out(plan.tensors, form)  # how tensors are cut into chunks stays as it is
    return assemble(
        recipe=plan.recipe,
        options=replace(plan.options, format=form),
        method=plan.method,
        checkpoints=plan.checkpoints,
        base=plan.base,
        models=plan.models,
        tensors=plan.tensors,
        stacks=plan.stacks,
        tie=plan.tie,
        vocabulary=plan.vocabulary,
        warnings=plan.warnings,
        layout=layout,
        jobs=plan.jobs,
    )


def share_jobs(plan: Plan, shards: Collection[int]) -> tuple[Job, ...]:
    """Give the jobs of a plan, or what of them belongs to some shards: a batch of small tensors may be of several."""
    ours = set(shards)
    found = []
    for job in plan.jobs:
        tasks = tuple(
            kept
            for task in job.tasks
            if (kept := tuple([piece for piece in task if plan.layout.tensors[piece.tensor].shard in ours]))
        )
        if tasks:
            found.append(job if tasks == job.tasks else replace(job, tasks=tasks))
    return tuple(found)
