"""LoRA of fused experts, which peft calls target parameters: one tensor of many matrices, or the tensors of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dovetail.io.adapters.matrices import Factors, Matrix, add_factors, tile_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Experts:
    """One matrix for each expert: ``W[e] + scale * (left[e] @ right[e])``.

    peft packs the factors of all experts into two matrices. Row ``e * rank + k`` of `down` and column
    ``k * count + e`` of `up` are term ``k`` of the product of expert ``e``.
    """

    rows: int
    """Rows of a matrix of the tensor."""
    columns: int
    """Columns of a matrix of the tensor."""
    rank: int
    """Terms of the product of one expert."""
    count: int
    """Number of experts in `down` and `up`."""
    down: Matrix
    """What peft calls A: count times rank by the inputs of an expert."""
    up: Matrix
    """What peft calls B: the outputs of an expert by rank times count."""
    turned: bool
    """Whether a matrix is stored inputs by outputs, and so is ``down[e].T @ up[e].T``."""
    scale: float
    """Factor of the products."""
    expert: int = 0
    """The expert of the first matrix of the tensor."""
    offset: int = 0
    """Row of the product that is the first row of a matrix of the tensor."""

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `apply` takes: the pages of both factors, and three copies of a tile of each."""
        return self.down.nbytes + self.up.nbytes + tile_bytes(self.rows, self.columns, self.rank)

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add the products to the elements of the flattened tensor that begin at element `start`."""
        size, stop = self.rows * self.columns, start + values.size
        for index in range(start // size, -(-stop // size)):
            low, high = max(start, index * size), min(stop, (index + 1) * size)
            part = values[low - start : high - start]
            add_factors(
                part, low - index * size, self.columns, self.rank, self._factors(self.expert + index), self.scale
            )
        self.down.release()
        self.up.release()

    def _factors(self, expert: int) -> Factors:
        """Return functions that decode rows of the left factor of an expert, and columns of the right one."""
        down = self.down.stored(expert * self.rank, (expert + 1) * self.rank)

        def up(part: slice) -> NDArray[np.float32]:
            return self.up.decoded(self.up.stored(part.start, part.stop)[:, expert :: self.count])

        if self.turned:
            return (
                lambda rows: self.down.decoded(down[:, rows.start + self.offset : rows.stop + self.offset].T),
                lambda columns: np.ascontiguousarray(up(columns).T),
            )
        return (
            lambda rows: up(slice(rows.start + self.offset, rows.stop + self.offset)),
            lambda columns: self.down.decoded(down[:, columns]),
        )
