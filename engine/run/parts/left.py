"""What is left of a merge that is made in parts, and dividing it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.shares import Shares, Unit, divide, tensor_costs, units
from dovetail.engine.run.journal import entry_bytes, identity
from dovetail.engine.run.parts.folder import PartsLayout
from dovetail.engine.run.records import RecordTable


def describe(plan: Plan, table: RecordTable) -> PartsLayout:
    """Give what all processes of a plan agree on."""
    shards, count = _shards(plan), len(plan.layout.shards)
    moved = np.zeros(count, np.int64)
    np.add.at(moved, shards, tensor_costs(plan))
    return PartsLayout(
        identity=identity(plan),
        noun=plan.noun,
        shard_limit_bytes=plan.options.format.shard_limit_bytes,
        entry_bytes=entry_bytes(table),
        rows=tuple(table.first_row[np.searchsorted(shards, np.arange(count + 1))].tolist()),
        moved_bytes=tuple(moved.tolist()),
    )


def divide_what_is_left(plan: Plan, table: RecordTable, count: int) -> Shares:
    """Divide the shards that are not done among `count` parts, balanced by the bytes that are left to move."""
    costs = tensor_costs(plan)
    left = np.ceil(costs * _share_left(table)).astype(np.int64)
    rows, done = _rows(plan, table), table.rows["done"]

    def is_left(unit: Unit) -> bool:
        return not done[rows[unit.shards[0]] : rows[unit.shards[-1] + 1]].all()

    return divide([unit for unit in units(plan, left) if is_left(unit)], count)


def left_bytes(plan: Plan, table: RecordTable, shards: tuple[int, ...]) -> int:
    """Give the bytes of some shards that are not written yet."""
    sizes = np.array([item.length * item.dtype.itemsize for item in plan.tensors], np.float64)
    return int((sizes * _share_left(table))[np.isin(_shards(plan), shards)].sum())


def begun_shards(plan: Plan, table: RecordTable, shards: tuple[int, ...]) -> list[int]:
    """Give those of some shards of which chunks are done: their files must be there."""
    rows = _rows(plan, table)
    return [shard for shard in shards if table.rows["done"][rows[shard] : rows[shard + 1]].any()]


def share_done(plan: Plan, table: RecordTable, shards: tuple[int, ...]) -> float:
    """Give the share of the chunks of some shards that are done, from 0 to 1."""
    rows = _rows(plan, table)
    done = sum(int(table.rows["done"][rows[shard] : rows[shard + 1]].sum()) for shard in shards)
    return done / max(1, sum(int(rows[shard + 1] - rows[shard]) for shard in shards))


def _share_left(table: RecordTable) -> NDArray[np.float64]:
    """Give, for each tensor, the share of its chunks that is not done."""
    counts = np.diff(table.first_row)
    if not len(counts):
        return np.zeros(0)
    done = np.add.reduceat(table.rows["done"].astype(np.int64), table.first_row[:-1])
    return np.asarray(1 - done / counts)


def _rows(plan: Plan, table: RecordTable) -> NDArray[np.int64]:
    """Give the number of the first row of every shard, and the number of all rows."""
    return table.first_row[np.searchsorted(_shards(plan), np.arange(len(plan.layout.shards) + 1))]


def _shards(plan: Plan) -> NDArray[np.int64]:
    """Give the shard of each tensor; tensors lie in shards in their order."""
    return np.array([placed.shard for placed in plan.layout.tensors], np.int64)
