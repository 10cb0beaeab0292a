"""A tensor with some columns of another one, gathered while it is read.

Rows of the other tensor are read in windows, and each window is let go of before the next is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.io.files.boxes import boxes
from dovetail.io.source import Decoding, Source, checked_source, out_of_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_BYTES: Final = 4 * 2**20
"""Most bytes of the other tensor that are read at a time."""

_Step = tuple[int, int, int, int]
"""What is read at a time: first row and one past the last, first element of a gathered row and one past the last."""


@checked_source
@dataclass(frozen=True, slots=True, eq=False)
class SelectedColumns:
    """Some columns of a tensor of rows, in rising order."""

    source: Source
    """The whole tensor."""
    row_length: int
    """Elements of one of its rows."""
    column_length: int
    """Elements of one column within a row, such as the window of a convolution's channel; it divides the former."""
    columns: NDArray[np.int64]
    """The columns that are taken, at least one, in strictly rising order."""

    @property
    def width(self) -> int:
        """Elements of a gathered row."""
        return len(self.columns) * self.column_length

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.source.length // self.row_length * self.width

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return self.source.itemsize

    @property
    def copies(self) -> bool:
        """Always true, because columns are gathered."""
        return True

    @property
    def scratch_bytes(self) -> int:
        """Most memory that a read takes besides what it returns: a window, what is gathered of it, and from where."""
        window = min(WINDOW_BYTES, self.source.length * self.itemsize)
        held = window * (3 if self.source.copies else 2)
        return self.source.scratch_bytes + held + 24 * min(self.width, WINDOW_BYTES // self.itemsize)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Gather the bytes of a range; raises as `Source.read` does."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        kind = np.dtype(f"V{self.itemsize}")
        out: NDArray[Any] = np.empty(stop - start, kind)
        for box in boxes((self.length // self.width, self.width), start, stop):
            part = out[box.offset : box.offset + box.length].reshape(box.shape)
            for top, bottom, left, right in self._steps(box.lows, box.highs):
                places = self._places(left, right)
                low, high = top * self.row_length + int(places[0]), (bottom - 1) * self.row_length + int(places[-1]) + 1
                self.source.populate(low, high)  # raises an error for pages that cannot be read
                window = self.source.read(low, high).view(kind)
                span = int(places[-1]) - int(places[0]) + 1
                strides = (self.row_length * self.itemsize, self.itemsize)
                rows = np.lib.stride_tricks.as_strided(window, (bottom - top, span), strides, writeable=False)
                target = part[top - box.lows[0] : bottom - box.lows[0], left - box.lows[1] : right - box.lows[1]]
                target[...] = rows[:, places - places[0]]
                del window, rows
                self.source.release(low, high)
        data: NDArray[np.uint8] = out.view(np.uint8)
        data.flags.writeable = False
        return data

    def _places(self, left: int, right: int) -> NDArray[np.int64]:
        """Give the places, within a row of the whole tensor, of elements ``left:right`` of a gathered row."""
        wanted = np.arange(left, right)
        found: NDArray[np.int64] = self.columns[wanted // self.column_length] * self.column_length
        return found + wanted % self.column_length

    def _steps(self, lows: tuple[int, ...], highs: tuple[int, ...]) -> Iterator[_Step]:
        """Cut a box of gathered elements into steps whose windows are not too large."""
        most = max(1, WINDOW_BYTES // self.itemsize)
        (top, left), (bottom, right) = lows, highs
        if self.row_length <= most:
            height = most // self.row_length
            for row in range(top, bottom, height):
                yield row, min(bottom, row + height), left, right
            return
        for row in range(top, bottom):
            begin = left
            while begin < right:
                end = self._reach(begin, right, most)
                yield row, row + 1, begin, end
                begin = end

    def _reach(self, begin: int, right: int, most: int) -> int:
        """Give the end of the longest stretch of a gathered row whose elements lie within `most` of each other."""
        column, offset = divmod(begin, self.column_length)
        limit = int(self.columns[column]) * self.column_length + offset + most  # one past the last place
        last, rest = divmod(limit, self.column_length)
        whole = int(np.searchsorted(self.columns, last))
        end = whole * self.column_length
        if whole < len(self.columns) and self.columns[whole] == last:
            end += rest
        return min(right, end)

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading from disk the rows that a range is part of, without waiting for them."""
        if start < stop:
            self.source.prefetch(*self._span(start, stop))

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing, because `read` makes one window at a time resident."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Do nothing, because `read` lets go of every window that it has copied."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give none: columns are copied."""

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading the rows that a range is part of decodes."""
        return self.source.decoding(*(self._span(start, stop) if start < stop else (0, 0)))

    def stored_objects(self) -> None:
        """Give none: only the whole tensor is stored."""

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        """Give the elements of the whole tensor between the first and the last of a range, which is not empty."""
        (first, left), (last, right) = divmod(start, self.width), divmod(stop - 1, self.width)
        low = first * self.row_length + int(self._places(left, left + 1)[0])
        return low, last * self.row_length + int(self._places(right, right + 1)[0]) + 1
