"""The table with the checksum and statistics of every output chunk, one row each.

The table is allocated once, before the first task, and is all that a merge keeps in memory about finished chunks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.task import PieceRecord

_MOST_COUNTED = 2**48  # elements of a chunk


def row_dtype(models: int) -> np.dtype[Any]:
    """Make the numpy dtype of a row for tensors that are merged from at most `models` models."""
    return np.dtype(
        [
            ("done", "u1"),
            ("differing", "u1"),
            ("checksum", "<u8"),
            ("overflowed", "<i8"),
            ("kept", "<i8", (models, models)),
            ("nonfinite", "<i8", (models + 1,)),
            ("delta_square", "<f8", (models,)),
            ("kept_square", "<f8", (models,)),
            ("merged_square", "<f8"),
        ]
    )


def are_possible(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell of each row whether a chunk can have it: no count is negative or absurd, and no square is negative."""
    if not len(rows):
        return np.zeros(0, np.bool_)
    possible: NDArray[np.bool_] = (rows["done"] == 1) & (rows["differing"] <= 1)
    for name in ("overflowed", "kept", "nonfinite"):
        found = rows[name].reshape(len(rows), -1)
        possible &= ((found >= 0) & (found < _MOST_COUNTED)).all(axis=1)
    for name in ("delta_square", "kept_square", "merged_square"):
        with np.errstate(invalid="ignore"):
            possible &= ~(rows[name].reshape(len(rows), -1) < 0).any(axis=1)  # NaN is possible
    return possible


class RecordTable:
    """The rows of all chunks of a plan, in the order of the plan's tensors and of their chunks."""

    def __init__(self, plan: Plan) -> None:
        counts = [tensor.chunk_count for tensor in plan.tensors]
        self.first_row: NDArray[np.int64] = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        models = max((len(tensor.models) for tensor in plan.tensors), default=1)
        self.rows = np.zeros(int(self.first_row[-1]), row_dtype(models))
        self._done = self.rows["done"]

    def add(self, records: Sequence[PieceRecord]) -> NDArray[np.int64]:
        """Fill in the rows of finished chunks, and return the numbers of these rows."""
        numbers = self.first_row[np.array([item.tensor for item in records], np.int64)]
        numbers += np.array([item.chunk for item in records], np.int64)
        alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for position, item in enumerate(records):
            alike[len(item.statistics.delta_square), len(item.statistics.nonfinite)].append(position)
        for (count, sources), positions in alike.items():  # many rows at once; one by one they take ten times as long
            items = [records[position] for position in positions]
            found = [item.statistics for item in items]
            rows: Any = np.zeros(len(items), self.rows.dtype)
            rows["checksum"] = [item.checksum for item in items]
            rows["differing"] = [each.differing for each in found]
            rows["overflowed"] = [each.overflowed for each in found]
            rows["kept"][:, :count, :count] = [each.kept for each in found]
            rows["nonfinite"][:, :sources] = [each.nonfinite for each in found]
            rows["delta_square"][:, :count] = [each.delta_square for each in found]
            rows["kept_square"][:, :count] = [each.kept_square for each in found]
            rows["merged_square"] = [each.merged_square for each in found]
            rows["done"] = 1
            self.rows[numbers[positions]] = rows
        return numbers

    def is_done(self, tensor: int, chunk: int) -> bool:
        """Whether a chunk's row has been filled in."""
        return bool(self._done[self.first_row[tensor] + chunk])

    def of_tensor(self, tensor: int) -> NDArray[Any]:
        """Give the rows of one tensor, in chunk order."""
        return self.rows[self.first_row[tensor] : self.first_row[tensor + 1]]

    def tensor_sums(self) -> NDArray[Any]:
        """Add up the rows of each tensor into one row, in which ``differing`` is set if any chunk has it set."""
        sums: Any = np.zeros(len(self.first_row) - 1, self.rows.dtype)
        if not len(sums):
            return np.asarray(sums)
        for name in ("overflowed", "kept", "nonfinite", "delta_square", "kept_square", "merged_square"):
            sums[name] = np.add.reduceat(self.rows[name], self.first_row[:-1], axis=0)
        sums["differing"] = np.maximum.reduceat(self.rows["differing"], self.first_row[:-1])
        return np.asarray(sums)


def chunk_checksums(rows: NDArray[Any]) -> list[str]:
    """Write the checksums of a tensor's chunks in hexadecimal."""
    return [f"{int(value):016x}" for value in rows["checksum"]]
