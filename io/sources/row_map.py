"""Which row of which tensor every row of a gathered tensor is: runs of consecutive rows, never a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ZERO: Final = -1
"""Stands for a donor where a row is all zeros."""

AVERAGE: Final = -2
"""Stands for a donor where a row is the average of rows of several donors."""

MEAN: Final = -3
"""Stands for a donor where a row is the mean of the gathered tensor's own first rows."""


@dataclass(frozen=True, slots=True, eq=False)
class RowMap:
    """The rows of a gathered tensor, run by run; small, picklable, and shared by tensors of one vocabulary."""

    size: int
    """Number of rows."""
    starts: NDArray[np.int32]
    """First row of every run, rising from 0."""
    donors: NDArray[np.int16]
    """Index of every run's donor tensor; or `ZERO`, `AVERAGE`, `MEAN`."""
    rows: NDArray[np.int32]
    """Row of the donor that every run begins with; for `AVERAGE`, position in `averages`."""
    averages: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Donor and row of everything that goes into each average, in the order of addition."""
    mean_rows: int = 0
    """Number of first rows that `MEAN` is the mean of; none of them is `MEAN` itself."""

    @property
    def made(self) -> bool:
        """Whether rows are made by averaging, so that no stored row has their values."""
        return bool(self.averages) or self.has_mean

    @property
    def has_mean(self) -> bool:
        """Whether any row is the mean of the first ones."""
        return bool((self.donors == MEAN).any())

    @property
    def used(self) -> tuple[int, ...]:
        """The donors that rows come from, in rising order."""
        found = {int(donor) for donor in set(self.donors.tolist()) if donor >= 0}
        return tuple(sorted(found.union(donor for average in self.averages for donor, _ in average)))

    def is_head_of(self, donor: int) -> bool:
        """Whether the rows are the first of one donor, in its order: nothing has to be gathered."""
        return 1 == len(self.starts) and (donor, 0) == (int(self.donors[0]), int(self.rows[0]))


def row_map(
    donors: NDArray[np.int16],
    rows: NDArray[np.int32],
    averages: Sequence[tuple[tuple[int, int], ...]] = (),
    mean_rows: int = 0,
) -> RowMap:
    """Find the runs in a list of rows.

    Parameters
    ----------
    donors, rows
        Donor and row of every output row, as in `RowMap`; rows of `ZERO` and `MEAN` have no meaning.
    averages, mean_rows
        As in `RowMap`.

    """
    import numpy as np

    plain = (donors == ZERO) | (donors == MEAN)
    position = np.arange(len(donors), dtype=np.int32)
    counted = np.where(plain, position, rows).astype(np.int32)  # such rows make one run, wherever they are
    begins = np.ones(len(donors), bool)
    begins[1:] = (donors[1:] != donors[:-1]) | (counted[1:] != counted[:-1] + 1)
    starts = np.flatnonzero(begins).astype(np.int32)
    return RowMap(len(donors), starts, donors[starts].copy(), counted[starts].copy(), tuple(averages), mean_rows)
