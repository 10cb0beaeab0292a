"""The changes that adapters make to a tensor: one class for each kind, applied to any range of the flattened tensor.

All arithmetic is float32, in an order that does not depend on the range, so that an element has the same bits however
the tensor is cut.
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

_TILE_COLUMNS: Final = 512  # columns of the right factor in a tile, which stays in the cache

_LEFT_BYTES: Final = 1 << 20  # bytes of the left factor that are held at a time, as float32


@dataclass(frozen=True, slots=True)
class Matrix:
    """A small tensor of an adapter, taken as a matrix or a vector."""

    source: Source
    """Reads the elements."""
    dtype: DType
    """Dtype of the stored elements."""
    rows: int
    """Number of stored rows; 1 for a vector."""
    columns: int
    """Number of stored columns."""

    @property
    def nbytes(self) -> int:
        """Most bytes that reading a part takes: the pages of the tensor, and a copy of them if the source copies."""
        size = self.rows * self.columns * self.dtype.itemsize
        return size * (2 if self.source.copies else 1) + self.source.scratch_bytes

    def stored(self, low: int, high: int) -> NDArray[Any]:
        """Read rows ``low:high``, as unsigned integers of the size of an element."""
        begin, end = low * self.columns, high * self.columns
        self.source.populate(begin, end)  # a page that cannot be read would kill the process when it is touched
        return self.source.read(begin, end).view(f"u{self.dtype.itemsize}").reshape(-1, self.columns)

    def decoded(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Decode a part of the rows that `stored` has read, into a contiguous array."""
        values = np.empty(stored.shape, np.float32)
        decode_into(np.ascontiguousarray(stored).reshape(-1).view(np.uint8), self.dtype, values.reshape(-1))
        return values

    def vector(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read and decode elements ``start:stop`` of a vector."""
        return self.decoded(self.stored(0, 1)[0, start:stop])

    def release(self) -> None:
        """Release the pages of the tensor."""
        self.source.release(0, self.rows * self.columns)


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

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `apply` takes: the pages of both factors, and three copies of a tile of each."""
        tile = 4 * self.rank * min(self.columns, _TILE_COLUMNS)
        left = max(4 * self.rank, min(_LEFT_BYTES, 4 * self.rank * self.rows))
        # A tile is gathered in the stored dtype, and then decoded, while the tile before it is still held.
        return self.left.nbytes + self.right.nbytes + 3 * (tile + left)

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add the product to the elements of the flattened tensor that begin at element `start`."""
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
        """Read both factors, and return functions that decode rows of the left one and columns of the right one."""
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
        return self.first.scratch_bytes + self.second.scratch_bytes + 12 * _TILE_COLUMNS * _TILE_COLUMNS

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add the change to the elements of the flattened tensor that begin at element `start`."""
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


def multiply_lines(
    values: NDArray[np.float32], start: int, columns: int, factors: NDArray[np.float32], *, by_column: bool
) -> None:
    """Multiply the elements of a flattened matrix that begin at `start` by the factors of their rows or columns."""
    for top, bottom, low, high in _rectangles(start, start + values.size, columns):
        begin, end = top * columns + low - start, (bottom - 1) * columns + high - start
        block = values[begin:end].reshape(bottom - top, high - low)
        block *= factors[low:high] if by_column else factors[top:bottom, np.newaxis]


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    """Cut a range into slices of at most `step`."""
    return (slice(low, min(stop, low + step)) for low in range(start, stop, step))


def _rectangles(start: int, stop: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut a range of a flattened matrix into at most three rectangles (first row, end row, first column, end column).

    Only rectangles of a single row are narrower than the matrix.
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
