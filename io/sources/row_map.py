"""The row map of a gathered tensor: for every row, the donor and the row in it, stored as runs of consecutive rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ZERO: Final = -1
"""Stands in place of a donor for a row of zeros."""

AVERAGE: Final = -2
"""Stands in place of a donor for a row that is the average of rows of several donors."""

MEAN: Final = -3
"""Stands in place of a donor for a row that is the mean of the first rows of the gathered tensor itself."""


@dataclass(frozen=True, slots=True, eq=False)
class RowMap:
    """The rows of a gathered tensor as runs. It is small, can be pickled, and serves all tensors of one vocabulary."""

    size: int
    """Number of rows."""
    starts: NDArray[np.int32]
    """First row of every run, in rising order from 0."""
    donors: NDArray[np.int16]
    """For every run, the index of its donor, or `ZERO`, `AVERAGE` or `MEAN`."""
    rows: NDArray[np.int32]
    """For every run, the row of the donor with which it begins; for `AVERAGE`, the position in `averages`."""
    averages: tuple[tuple[tuple[int, int], ...], ...] = ()
    """For every average, the donor and row of each of its terms, in the order of addition."""
    mean_rows: int = 0
    """Number of first rows of which `MEAN` is the mean; none of them is a `MEAN` row itself."""

    @property
    def made(self) -> bool:
        """Whether any row is computed by averaging rather than copied from a donor."""
        return bool(self.averages) or self.has_mean

    @property
    def has_mean(self) -> bool:
        """Whether any row is the mean of the first ones."""
        return bool((self.donors == MEAN).any())

    @property
    def used(self) -> tuple[int, ...]:
        """The indices of the donors from which rows come, in rising order."""
        found = {int(donor) for donor in set(self.donors.tolist()) if donor >= 0}
        return tuple(sorted(found.union(donor for average in self.averages for donor, _ in average)))

    def is_head_of(self, donor: int) -> bool:
        """Whether the rows are the first rows of one donor, in the same order, so that no row must be moved."""
        return 1 == len(self.starts) and (donor, 0) == (int(self.donors[0]), int(self.rows[0]))


def row_map(
    donors: NDArray[np.int16],
    rows: NDArray[np.int32],
    averages: Sequence[tuple[tuple[int, int], ...]] = (),
    mean_rows: int = 0,
) -> RowMap:
    """Make a row map from a list of single rows, by finding the runs in it.

    Parameters
    ----------
    donors
        For every row of the gathered tensor, the index of its donor, or `ZERO`, `AVERAGE` or `MEAN`.
    rows
        For every row, the row in its donor; for `AVERAGE`, the position in `averages`; else without meaning.
    averages, mean_rows
        As in `RowMap`.

    """
    import numpy as np

    plain = (donors == ZERO) | (donors == MEAN)
    position = np.arange(len(donors), dtype=np.int32)
    counted = np.where(plain, position, rows).astype(np.int32)  # so that neighbouring rows of one kind make one run
    begins = np.ones(len(donors), bool)
    begins[1:] = (donors[1:] != donors[:-1]) | (counted[1:] != counted[:-1] + 1)
    starts = np.flatnonzero(begins).astype(np.int32)
    return RowMap(len(donors), starts, donors[starts].copy(), counted[starts].copy(), tuple(averages), mean_rows)
