"""Quantised matrices stored with the columns of the tensor as rows, decoded while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.source import Decoding, Source, checked_source, combined, out_of_range
from dovetail.io.sources.dequantised import STEP_ELEMENTS, DequantisedSource, decode_codes
from dovetail.io.sources.floats import ComputedFloats, read_only_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRETCH_BYTES: Final = 2**20  # codes of stored rows that are read at a time, where rows become columns


@checked_source
@dataclass(frozen=True, slots=True)
class TransposedSource(ComputedFloats):
    """Stacked matrices stored with the columns of the tensor as rows, as float32 elements.

    A range needs a few elements of every stored row. Codes are read stretch by stretch, and let go of at once.
    """

    inner: DequantisedSource
    """The matrices as they are stored."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.inner.length

    @property
    def scratch_bytes(self) -> int:
        """Most memory of a `read` beyond twice what it returns: rows that the range cuts, and a stretch's codes."""
        grid, codes = self.inner.grid, self.inner.codes_per_byte
        stretch = max(_STRETCH_BYTES, grid.columns // codes)
        return self.inner.scratch_bytes + 8 * grid.rows + 3 * stretch + 16 * STEP_ELEMENTS

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Compute elements ``[start, stop)`` and return their bytes, read-only."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        rows = self.inner.grid.rows
        first, last = start // rows, -(-stop // rows)
        lines = np.empty((last - first, rows), np.float32)
        for matrix, low, high in self._columns(start, stop):
            begin = matrix * self.inner.grid.columns + low - first
            for top, bottom in self._stretches():
                self._fill(matrix, (top, bottom), (low, high), lines[begin : begin + high - low, top:bottom])
        flat = lines.reshape(-1)[start - first * rows : stop - first * rows]
        return read_only_bytes(flat)

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading the matrices that a range is part of, without waiting for them."""
        for matrix, _, _ in self._columns(start, stop):
            for top, bottom in self._stretches():
                self.inner.prefetch(*self._elements(matrix, top, bottom))

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing: `read` makes resident what it decodes, stretch by stretch."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Do nothing: `read` has let go of what it decoded."""

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading the matrices that a range is part of decodes."""
        if start == stop:
            return self.inner.decoding(0, 0)
        rows = self.inner.grid.rows
        matrices = [self._elements(matrix, 0, rows) for matrix, _, _ in self._columns(start, stop)]
        return combined(self.inner.decoding(*elements) for elements in matrices)

    def stored_objects(self) -> None:
        """Give none: the codes and the scales are stored, each for itself."""

    def _fill(self, matrix: int, rows: tuple[int, int], columns: tuple[int, int], out: NDArray[np.float32]) -> None:
        """Decode a rectangle of stored elements into ``out[column, row]``."""
        inner, per_byte = self.inner, self.inner.codes_per_byte
        (top, bottom), (low, high) = rows, columns
        elements = self._elements(matrix, top, bottom)
        inner.populate(*elements)
        raw = inner.codes.read(*inner.code_range(*elements)).reshape(bottom - top, -1)
        first_scale, last_scale = inner.grid.scale_range(*elements)
        scales = inner.scales.read(first_scale, last_scale)
        step = max(1, STEP_ELEMENTS // (high - low))
        for row in range(0, bottom - top, step):
            part = raw[row : row + step, low // per_byte : -(-high // per_byte)]
            values = decode_codes(np.ascontiguousarray(part).reshape(-1), inner.code_dtype).reshape(len(part), -1)
            values = np.ascontiguousarray(values[:, low % per_byte :][:, : high - low])
            weights = np.empty_like(values)
            inner.multiply(values, matrix * inner.grid.rows + top + row, low, scales, first_scale, weights)
            out[:, row : row + len(part)] = weights.T
        del raw, scales
        inner.release(*elements)

    def _columns(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Give each matrix that a range is part of, and the stored columns ``[low, high)`` of it."""
        rows, columns = self.inner.grid.rows, self.inner.grid.columns
        line, last = start // rows, -(-stop // rows)
        while line < last:
            matrix, low = divmod(line, columns)
            high = min(columns, low + last - line)
            yield matrix, low, high
            line += high - low

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """Cut the rows of a matrix into stretches."""
        step = max(1, _STRETCH_BYTES * self.inner.codes_per_byte // self.inner.grid.columns)
        for top in range(0, self.inner.grid.rows, step):
            yield top, min(self.inner.grid.rows, top + step)

    def _elements(self, matrix: int, top: int, bottom: int) -> tuple[int, int]:
        """Give the stored elements of some rows of a matrix."""
        grid = self.inner.grid
        return (matrix * grid.rows + top) * grid.columns, (matrix * grid.rows + bottom) * grid.columns


def stored_across(source: Source) -> Source | None:
    """Give the matrices as they are stored if a source transposes them; None if it does not."""
    return source.inner if isinstance(source, TransposedSource) else None
