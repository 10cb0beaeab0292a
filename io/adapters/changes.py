"""The changes that adapters make to a tensor: one class for each kind, applied to any range of the flattened tensor.

All arithmetic is float32, in an order that does not depend on the range, so that an element has the same bits however
the tensor is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dovetail.io.adapters.matrices import (
    TILE_COLUMNS,
    Factors,
    Matrix,
    add_factors,
    multiply_lines,
    tile_bytes,
    tiles,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Change(Protocol):
    """A change that an adapter makes to a tensor. Changes are picklable."""

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `apply` takes."""

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Change, in place, the elements of the flattened tensor that begin at element `start`.

        Parameters
        ----------
        values
            The elements, as float32.
        start
            Index of the first of them.

        """


@dataclass(frozen=True, slots=True)
class LowRank:
    """LoRA: ``W + scale * (left @ right)``."""

    rows: int
    """Rows of W: its first dimension."""
    columns: int
    """Elements of a row of W."""
    rank: int
    """Columns of the left factor, and rows of the right one."""
    left: Matrix
    """The left factor, rows by rank; transposed if `turned`."""
    right: Matrix
    """The right factor, rank by columns; transposed if `turned`."""
    turned: bool
    """Whether both factors are stored transposed."""
    scale: float
    """Factor of the product."""
    singular: Matrix | None = None
    """One factor for each term of the product (AdaLoRA); None if all are 1."""

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `apply` takes: the pages of both factors, and three copies of a tile of each."""
        more = 0 if self.singular is None else self.singular.nbytes + 12 * self.rank
        return self.left.nbytes + self.right.nbytes + tile_bytes(self.rows, self.columns, self.rank) + more

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add the product to the elements of the flattened tensor that begin at element `start`."""
        add_factors(values, start, self.columns, self.rank, self.factors(), self.scale)
        self.release()

    def factors(self) -> Factors:
        """Read both factors, and return functions that decode rows of the left one and columns of the right one.

        The singular values, if there are any, multiply the factor that peft calls A.
        """
        if self.singular is None:
            return self._plain_factors()
        singular = self.singular.vector(0, self.rank)
        left, right = self._plain_factors()
        if self.turned:
            return lambda rows: left(rows) * singular, right
        return left, lambda columns: right(columns) * singular[:, np.newaxis]

    def _plain_factors(self) -> Factors:
        right = self.right.stored(0, self.right.rows)
        if self.turned:
            left = self.left.stored(0, self.left.rows)
            return (
                lambda rows: self.left.decoded(left[:, rows].T),
                lambda columns: self.right.decoded(right[columns].T),
            )
        return (
            lambda rows: self.left.decoded(self.left.stored(rows.start, rows.stop)),
            lambda columns: self.right.decoded(right[:, columns]),
        )

    def release(self) -> None:
        """Release the pages of both factors."""
        self.left.release()
        self.right.release()
        if self.singular is not None:
            self.singular.release()


@dataclass(frozen=True, slots=True)
class Hadamard:
    """LoHa: ``W + scale * ((left1 @ right1) * (left2 @ right2))``, with the two products multiplied by elements."""

    first: LowRank
    """The first product."""
    second: LowRank
    """The second product."""
    scale: float
    """Factor of the elementwise product."""

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `apply` takes: those of both products, and three tiles."""
        return self.first.scratch_bytes + self.second.scratch_bytes + 12 * TILE_COLUMNS * TILE_COLUMNS

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add the change to the elements of the flattened tensor that begin at element `start`."""
        from dovetail.io.adapters.kernels import add_product

        width, one = self.first.columns, np.float32(1)
        left1, right1 = self.first.factors()
        left2, right2 = self.second.factors()
        for rows, columns, target in tiles(values, start, width):
            tile, other = np.zeros(target.shape, np.float32), np.zeros(target.shape, np.float32)
            add_product(left1(rows), right1(columns), one, tile.reshape(-1), 0, columns.stop - columns.start)
            add_product(left2(rows), right2(columns), one, other.reshape(-1), 0, columns.stop - columns.start)
            tile *= other
            tile *= np.float32(self.scale)
            target += tile
        self.first.release()
        self.second.release()


@dataclass(frozen=True, slots=True)
class ScaledVector:
    """The bias beside a LoRA: ``b + scale * vector``."""

    vector: Matrix
    """The vector, as long as the tensor."""
    scale: float
    """Factor of the vector."""

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `apply` takes."""
        return self.vector.nbytes + 12 * self.vector.columns

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add the scaled vector to the elements of the tensor that begin at element `start`."""
        values += np.float32(self.scale) * self.vector.vector(start, start + values.size)
        self.vector.release()


@dataclass(frozen=True, slots=True)
class Rescaled:
    """(IA)³: every row, or every column, is multiplied by a different factor."""

    columns: int
    """Elements of a row of the tensor."""
    factors: Matrix
    """One factor for each row, or for each column."""
    by_column: bool
    """Whether the factors belong to columns, not to rows."""

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `apply` takes."""
        return self.factors.nbytes + 8 * self.factors.columns

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Multiply the elements of the flattened tensor that begin at element `start`."""
        factors = self.factors.vector(0, self.factors.columns)
        multiply_lines(values, start, self.columns, factors, by_column=self.by_column)
        self.factors.release()


@dataclass(frozen=True, slots=True)
class ReplacedRows:
    """Trained tokens: some rows of an embedding are replaced."""

    columns: int
    """Elements of a row."""
    rows: tuple[int, ...]
    """The rows that are replaced, in ascending order."""
    order: tuple[int, ...]
    """For each of them, the row of `new` that replaces it."""
    new: Matrix
    """The new rows."""

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `apply` takes."""
        return self.new.nbytes + 8 * self.columns

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Replace those of the elements from element `start` on that belong to the replaced rows."""
        stop = start + values.size
        first = int(np.searchsorted(self.rows, start // self.columns))
        for row, place in zip(self.rows[first:], self.order[first:], strict=True):
            low, high = max(start, row * self.columns), min(stop, (row + 1) * self.columns)
            if low >= high:
                break
            begin = low - row * self.columns
            stored = self.new.stored(place, place + 1)[0, begin : begin + high - low]
            values[low - start : high - start] = self.new.decoded(stored)
        self.new.release()
