"""What adapters do to a tensor: one class for each kind, applied to any range of the flattened tensor.

All arithmetic is float32, in an order that does not depend on the range: an element has the same bits however the
tensor is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from dovetail.io.dtypes import DType
from dovetail.io.source import Source
from dovetail.io.sources.floats import decode_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Part = Callable[[slice], NDArray[np.float32]]

_TILE_COLUMNS: Final = 512  # columns of the right factor that are multiplied at a time: a tile stays in the cache

_LEFT_BYTES: Final = 1 << 20  # of the left factor, as float32, held at a time


@dataclass(frozen=True, slots=True)
class Matrix:
    """A small tensor of an adapter, as a matrix or a vector."""

    source: Source
    """Where its elements are read."""
    dtype: DType
    """Their dtype."""
    rows: int
    """Rows as stored; 1 for a vector."""
    columns: int
    """Columns as stored."""

    @property
    def nbytes(self) -> int:
        """Most memory that a part of it takes while it is read: its pages, and a copy if its source copies."""
        size = self.rows * self.columns * self.dtype.itemsize
        return size * (2 if self.source.copies else 1) + self.source.scratch_bytes

    def stored(self, low: int, high: int) -> NDArray[Any]:
        """Read some rows, as unsigned integers of the elements' size."""
        begin, end = low * self.columns, high * self.columns
        self.source.populate(begin, end)  # touching pages that cannot be read would kill the process
        return self.source.read(begin, end).view(f"u{self.dtype.itemsize}").reshape(-1, self.columns)

    def decoded(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Decode a part of what was read; the result is contiguous."""
        values = np.empty(stored.shape, np.float32)
        decode_into(np.ascontiguousarray(stored).reshape(-1).view(np.uint8), self.dtype, values.reshape(-1))
        return values

    def vector(self, start: int, stop: int) -> NDArray[np.float32]:
        """Decode a part of a vector."""
        return self.decoded(self.stored(0, 1)[0, start:stop])

    def release(self) -> None:
        """Let go of its pages."""
        self.source.release(0, self.rows * self.columns)


class Change(Protocol):
    """What an adapter does to a tensor. Picklable."""

    @property
    def scratch_bytes(self) -> int:
        """Most memory that `apply` takes."""

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Change elements of the flattened tensor, from element `start` on, in place."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """LoRA: ``W + scale * (left @ right)``."""

    rows: int
    """Rows of W; its first dimension."""
    columns: int
    """Elements of a row of W."""
    rank: int
    """Columns of the left factor, rows of the right one."""
    left: Matrix
    """Rows by rank, or turned."""
    right: Matrix
    """Rank by columns, or turned."""
    turned: bool
    """Whether both factors are stored transposed."""
    scale: float
    """Factor of the product."""

    @property
    def scratch_bytes(self) -> int:
        """Most memory that `apply` takes: the pages of both factors, and a tile of each as float32."""
        tile = 4 * self.rank * min(self.columns, _TILE_COLUMNS)
        left = max(4 * self.rank, min(_LEFT_BYTES, 4 * self.rank * self.rows))
        # Each tile is gathered in the stored dtype, then decoded, while the one before is still there.
        return self.left.nbytes + self.right.nbytes + 3 * (tile + left)

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add the product to elements of the flattened tensor, from element `start` on."""
        from dovetail.io.adapters.kernels import add_product

        left_part, right_part = self.factors()
        block = max(1, _LEFT_BYTES // (4 * self.rank))
        for top, bottom, low, high in _rectangles(start, start + values.size, self.columns):
            for rows in _slices(top, bottom, block):
                left = left_part(rows)
                for columns in _slices(low, high, _TILE_COLUMNS):
                    first = rows.start * self.columns + columns.start - start
                    add_product(left, right_part(columns), np.float32(self.scale), values, first, self.columns)
        self.release()

    def factors(self) -> tuple[_Part, _Part]:
        """Read the factors; give what decodes some rows of the left one, and some columns of the right one."""
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
        """Let go of the factors' pages."""
        self.left.release()
        self.right.release()


@dataclass(frozen=True, slots=True)
class Hadamard:
    """LoHa: ``W + scale * ((left1 @ right1) * (left2 @ right2))``, the middle product element by element."""

    first: LowRank
    """One product."""
    second: LowRank
    """The other."""
    scale: float
    """Factor of both together."""

    @property
    def scratch_bytes(self) -> int:
        """Most memory that `apply` takes: what both products take, and three tiles."""
        return self.first.scratch_bytes + self.second.scratch_bytes + 12 * _TILE_COLUMNS * _TILE_COLUMNS

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add to elements of the flattened tensor, from element `start` on."""
        from dovetail.io.adapters.kernels import add_product

        width, one = self.first.columns, np.float32(1)
        (left1, right1), (left2, right2) = self.first.factors(), self.second.factors()
        for top, bottom, low, high in _rectangles(start, start + values.size, width):
            view = values[top * width + low - start : (bottom - 1) * width + high - start]
            block = view.reshape(bottom - top, high - low)
            for rows in _slices(top, bottom, _TILE_COLUMNS):
                for columns in _slices(low, high, _TILE_COLUMNS):
                    shape = rows.stop - rows.start, columns.stop - columns.start
                    tile, other = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
                    add_product(left1(rows), right1(columns), one, tile.reshape(-1), 0, shape[1])
                    add_product(left2(rows), right2(columns), one, other.reshape(-1), 0, shape[1])
                    tile *= other
                    tile *= np.float32(self.scale)
                    block[rows.start - top : rows.stop - top, columns.start - low : columns.stop - low] += tile
        self.first.release()
        self.second.release()


@dataclass(frozen=True, slots=True)
class ScaledVector:
    """The bias beside a LoRA: ``b + scale * vector``."""

    vector: Matrix
    """As long as the tensor."""
    scale: float
    """Its factor."""

    @property
    def scratch_bytes(self) -> int:
        """Most memory that `apply` takes."""
        return self.vector.nbytes + 12 * self.vector.columns

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add to elements of the tensor, from element `start` on."""
        values += np.float32(self.scale) * self.vector.vector(start, start + values.size)
        self.vector.release()


@dataclass(frozen=True, slots=True)
class Rescaled:
    """(IA)³: every row, or every column, times a number of its own."""

    columns: int
    """Elements of a row of the tensor."""
    factors: Matrix
    """One factor a row, or a column."""
    by_column: bool
    """Which of the two."""

    @property
    def scratch_bytes(self) -> int:
        """Most memory that `apply` takes."""
        return self.factors.nbytes + 8 * self.factors.columns

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Multiply elements of the flattened tensor, from element `start` on."""
        factors = self.factors.vector(0, self.factors.columns)
        multiply_lines(values, start, self.columns, factors, by_column=self.by_column)
        self.factors.release()


@dataclass(frozen=True, slots=True)
class ReplacedRows:
    """Trained tokens: some rows of an embedding take new values."""

    columns: int
    """Elements of a row."""
    rows: tuple[int, ...]
    """Which rows, ascending."""
    order: tuple[int, ...]
    """For each of them, which row of `new`."""
    new: Matrix
    """Their values."""

    @property
    def scratch_bytes(self) -> int:
        """Most memory that `apply` takes."""
        return self.new.nbytes + 8 * self.columns

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Put the new rows' elements in their place."""
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


def multiply_lines(
    values: NDArray[np.float32], start: int, columns: int, factors: NDArray[np.float32], *, by_column: bool
) -> None:
    """Multiply elements of a flattened matrix, from element `start` on, by their row's or their column's factor."""
    for top, bottom, low, high in _rectangles(start, start + values.size, columns):
        begin, end = top * columns + low - start, (bottom - 1) * columns + high - start
        block = values[begin:end].reshape(bottom - top, high - low)
        block *= factors[low:high] if by_column else factors[top:bottom, np.newaxis]


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    """Cut a range into slices of at most `step`."""
    return (slice(low, min(stop, low + step)) for low in range(start, stop, step))


def _rectangles(start: int, stop: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut a range of a flattened matrix into (first row, end row, first column, end column): at most three.

    Only a rectangle of one row is less wide than the matrix.
    """
    while start < stop:
        row, column = divmod(start, columns)
        whole = (stop - start) // columns if column == 0 else 0
        if whole:
            yield row, row + whole, 0, columns
            start += whole * columns
        else:
            end = min(columns, column + stop - start)
            yield row, row + 1, column, end
            start += end - column
