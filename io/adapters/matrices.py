"""The small tensors of adapters as matrices, and walking through a range of a large matrix in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.io.checkpoint import TensorInfo
from dovetail.io.dtypes import DType
from dovetail.io.source import Source
from dovetail.io.sources.floats import decode_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

Factors = tuple[Callable[[slice], "NDArray[np.float32]"], Callable[[slice], "NDArray[np.float32]"]]
"""Functions that give rows of the left factor of a product, and columns of the right one."""

TILE_COLUMNS: Final = 512
"""Columns of the right factor in a tile, which stays in the cache."""

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

    @classmethod
    def of(cls, info: TensorInfo, rows: int = 1) -> Matrix:
        """Take a tensor as a matrix of so many rows, or as a vector."""
        return cls(info.source, info.dtype, rows, info.length // rows)

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


def add_factors(
    values: NDArray[np.float32], start: int, columns: int, rank: int, factors: Factors, scale: float
) -> None:
    """Add ``scale * (left @ right)`` to the elements of a flattened matrix that begin at element `start`.

    Parameters
    ----------
    values
        The elements, changed in place.
    start
        Index of the first of them.
    columns
        Elements of a row of the matrix.
    rank
        Columns of the left factor.
    factors
        Give rows of the left factor, and columns of the right one.
    scale
        Factor of the product.

    """
    from dovetail.io.adapters.kernels import add_product

    left_part, right_part = factors
    block = max(1, _LEFT_BYTES // (4 * rank))
    for top, bottom, low, high in _rectangles(start, start + values.size, columns):
        for rows in _slices(top, bottom, block):
            left = left_part(rows)
            for part in _slices(low, high, TILE_COLUMNS):
                first = rows.start * columns + part.start - start
                add_product(left, right_part(part), np.float32(scale), values, first, columns)


def tile_bytes(rows: int, columns: int, rank: int) -> int:
    """Give the most bytes that parts of two factors take in `add_factors`.

    A part is gathered in the stored dtype, and then decoded, while the part before it is still held.
    """
    left = max(4 * rank, min(_LEFT_BYTES, 4 * rank * rows))
    return 3 * (4 * rank * min(columns, TILE_COLUMNS) + left)


def tiles(values: NDArray[np.float32], start: int, columns: int) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Cut the elements of a flattened matrix that begin at `start` into tiles: their rows, columns and elements."""
    for top, bottom, low, high in _rectangles(start, start + values.size, columns):
        view = values[top * columns + low - start : (bottom - 1) * columns + high - start]
        block = view.reshape(bottom - top, high - low)
        for rows in _slices(top, bottom, TILE_COLUMNS):
            for part in _slices(low, high, TILE_COLUMNS):
                yield rows, part, block[rows.start - top : rows.stop - top, part.start - low : part.stop - low]


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
