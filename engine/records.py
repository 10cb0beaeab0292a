"""One row for every chunk of the output: its checksum and statistics.

The table is allocated once, before the first task, and is all that a merge remembers about finished chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.planned import Plan
from dovetail.engine.task import PieceRecord


def row_dtype(models: int) -> np.dtype[Any]:
    """Give the layout of a row for tensors with at most `models` models."""
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


class RecordTable:
    """Rows of all chunks of a plan, tensor by tensor, chunks in order."""

    def __init__(self, plan: Plan) -> None:
        counts = [tensor.chunk_count for tensor in plan.tensors]
        self.first_row: NDArray[np.int64] = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        models = max((len(tensor.models) for tensor in plan.tensors), default=1)
        self.rows = np.zeros(int(self.first_row[-1]), row_dtype(models))

    def add(self, records: Sequence[PieceRecord]) -> NDArray[np.int64]:
        """Fill in the rows of finished chunks and give their numbers."""
        numbers = np.array([self.first_row[item.tensor] + item.chunk for item in records], np.int64)
        for number, item in zip(numbers, records, strict=True):
            row, found = self.rows[number], item.statistics
            count = len(found.delta_square)
            row["checksum"] = item.checksum
            row["differing"] = found.differing
            row["overflowed"] = found.overflowed
            row["kept"][:count, :count] = found.kept
            row["nonfinite"][: len(found.nonfinite)] = found.nonfinite
            row["delta_square"][:count] = found.delta_square
            row["kept_square"][:count] = found.kept_square
            row["merged_square"] = found.merged_square
            row["done"] = 1
        return numbers

    def is_done(self, tensor: int, chunk: int) -> bool:
        """Whether a chunk's row has been filled in."""
        return bool(self.rows["done"][self.first_row[tensor] + chunk])

    def of_tensor(self, tensor: int) -> NDArray[Any]:
        """Give the rows of one tensor, in chunk order."""
        return self.rows[self.first_row[tensor] : self.first_row[tensor + 1]]
