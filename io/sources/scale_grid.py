"""The grid on which the scales of a quantised matrix lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ScaleGrid:
    """Which scale belongs to which element of a matrix, or of matrices that are stacked.

    Scales lie on a grid: each belongs to a block of rows and columns. The last blocks of a side may be shorter.
    """

    rows: int
    """Rows of one matrix."""
    columns: int
    """Columns of one matrix, at least 1."""
    block_rows: int
    """Rows of a block."""
    block_columns: int
    """Columns of a block."""
    shared: bool = False
    """Whether all matrices of the stack have the same scales."""

    @property
    def grid_rows(self) -> int:
        """Rows of scales for one matrix."""
        return -(-self.rows // self.block_rows)

    @property
    def grid_columns(self) -> int:
        """Columns of scales."""
        return -(-self.columns // self.block_columns)

    def grid_row(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the row of scales for each row of the stacked matrices."""
        matrix, row = np.divmod(rows, self.rows)
        found: NDArray[np.int64] = row // self.block_rows
        return found if self.shared else found + matrix * self.grid_rows

    def scale_range(self, start: int, stop: int) -> tuple[int, int]:
        """Give the first scale that elements ``[start, stop)`` need, and one past the last; the range is not empty."""
        first, last = start // self.columns, (stop - 1) // self.columns
        if self.shared and first // self.rows != last // self.rows:
            return 0, self.grid_rows * self.grid_columns
        low, high = self.grid_row(np.array((first, last))).tolist()
        if first < last:
            return low * self.grid_columns, (high + 1) * self.grid_columns
        begin, end = start % self.columns, (stop - 1) % self.columns
        return low * self.grid_columns + begin // self.block_columns, (
            low * self.grid_columns + end // self.block_columns + 1
        )
