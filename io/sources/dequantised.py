"""Weights that are stored as codes and scales, decoded to float32 range by range while they are read.

A weight is ``code * scale``: the code's value and the scale are exact in float32, and their product is rounded once, to
nearest even. The result does not depend on the range that is read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.io.dtypes import DType
from dovetail.io.source import Decoding, Source, checked_source, combined, out_of_range
from dovetail.io.sources.floats import ComputedFloats, decode_into, read_only_bytes
from dovetail.io.sources.scale_grid import ScaleGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT4_VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The value of every 4-bit code (E2M1: a sign, two bits of exponent, one of mantissa)."""

STEP_ELEMENTS: Final = 1 << 17
"""Most elements that are decoded at a time."""

_SHORT_BLOCK: Final = 8  # blocks of fewer columns are multiplied faster if their scales are repeated first


@checked_source
@dataclass(frozen=True, slots=True)
class DequantisedSource(ComputedFloats):
    """A tensor of codes times its scales, as float32 elements."""

    codes: Source
    """The codes, byte by byte."""
    code_dtype: DType
    """What they are: float8, or ``F4`` for two codes a byte, that of the lower four bits first."""
    scales: Source
    """The scales, in the order of the grid."""
    scale_dtype: DType
    """What they are: floating point, or ``F8_E8M0`` for powers of two."""
    grid: ScaleGrid
    """Which scale belongs to which element."""
    length: int
    """Number of elements."""

    @property
    def scratch_bytes(self) -> int:
        """Most memory of a `read` beyond twice what it returns: what one step takes while it is decoded."""
        size = min(self.length, STEP_ELEMENTS)
        rows = max(1, size // self.grid.columns)
        factors = rows * min(self.grid.grid_columns, size)
        stored = self.codes.scratch_bytes + self.scales.scratch_bytes
        return stored + 8 * size + 24 * rows + 24 * factors

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Compute elements ``[start, stop)`` and return their bytes, read-only."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        out = np.empty(stop - start, np.float32)
        if start < stop:
            first = start // self.codes_per_byte
            raw = self.codes.read(*self.code_range(start, stop))
            first_scale, last_scale = self.grid.scale_range(start, stop)
            scales = self.scales.read(first_scale, last_scale)
            for low, high in self._steps(start, stop):
                target = out[low - start : high - start]
                codes = raw[low // self.codes_per_byte - first : -(-high // self.codes_per_byte) - first]
                values = decode_codes(codes, self.code_dtype)[low % self.codes_per_byte :][: target.size]
                width = min(self.grid.columns, target.size)
                row, column = divmod(low, self.grid.columns)
                self.multiply(values.reshape(-1, width), row, column, scales, first_scale, target.reshape(-1, width))
        return read_only_bytes(out)

    def multiply(
        self,
        values: NDArray[np.float32],
        row: int,
        column: int,
        scales: NDArray[np.uint8],
        first_scale: int,
        out: NDArray[np.float32],
    ) -> None:
        """Multiply a rectangle of values by their scales.

        Parameters
        ----------
        values : float32[rows, columns]
            The values of the codes.
        row, column
            Where the rectangle begins in the stacked matrices.
        scales : uint8[bytes]
            Stored scales, a range that has all those of the rectangle.
        first_scale
            Position of the first of them in the grid.
        out : float32[rows, columns]
            Receives the weights; contiguous.

        """
        grid, (rows, width) = self.grid, values.shape
        first, last = column // grid.block_columns, -(-(column + width) // grid.block_columns)
        places = grid.grid_row(np.arange(row, row + rows)) * grid.grid_columns - first_scale
        stored = scales.reshape(-1, self.scales.itemsize)
        chosen = np.take(stored, places[:, None] + np.arange(first, last), axis=0)
        factors = np.empty((rows, last - first), np.float32)
        decode_into(chosen.reshape(-1), self.scale_dtype, factors.reshape(-1))
        block = grid.block_columns
        with np.errstate(all="ignore"):  # NaN and infinity are found later, as in any input
            if last - first == 1:
                np.multiply(values, factors, out=out)
            elif column % block == 0 and width % block == 0 and block >= _SHORT_BLOCK:
                blocks = (rows, last - first, block)
                np.multiply(values.reshape(blocks), factors[:, :, None], out=out.reshape(blocks))
            else:
                begin = column - first * block
                np.multiply(values, np.repeat(factors, block, axis=1)[:, begin : begin + width], out=out)

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range's codes and scales from disk, without waiting for them."""
        if start < stop:
            self.codes.prefetch(*self.code_range(start, stop))
            self.scales.prefetch(*self.grid.scale_range(start, stop))

    def populate(self, start: int, stop: int) -> bool:
        """Make a range's codes and scales resident."""
        if start == stop:
            return True
        done = self.codes.populate(*self.code_range(start, stop))
        return self.scales.populate(*self.grid.scale_range(start, stop)) and done

    def release(self, start: int, stop: int) -> None:
        """Let go of a range's codes and scales."""
        if start < stop:
            self.codes.release(*self.code_range(start, stop))
            self.scales.release(*self.grid.scale_range(start, stop))

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading a range's codes and scales decodes."""
        if start == stop:
            return combined((self.codes.decoding(0, 0), self.scales.decoding(0, 0)))
        codes, scales = self.code_range(start, stop), self.grid.scale_range(start, stop)
        return combined((self.codes.decoding(*codes), self.scales.decoding(*scales)))

    def stored_objects(self) -> None:
        """Give none: the codes and the scales are stored, each for itself."""

    @property
    def codes_per_byte(self) -> int:
        """Codes in one byte."""
        return 2 if self.code_dtype.name == "F4" else 1

    def code_range(self, start: int, stop: int) -> tuple[int, int]:
        """Give the bytes that hold the codes of elements ``[start, stop)``."""
        return start // self.codes_per_byte, -(-stop // self.codes_per_byte)

    def _steps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut a range into rectangles: whole rows, or a part of one row."""
        columns = self.grid.columns
        while start < stop:
            column = start % columns
            if column or stop - start < columns or columns > STEP_ELEMENTS:
                end = min(stop, start + min(columns - column, STEP_ELEMENTS))
            else:
                end = start + min((stop - start) // columns, STEP_ELEMENTS // columns) * columns
            yield start, end
            start = end


def decode_codes(raw: NDArray[np.uint8], dtype: DType) -> NDArray[np.float32]:
    """Give the value of every code.

    Parameters
    ----------
    raw : uint8[bytes]
        The stored codes.
    dtype
        What they are: float8, or ``F4`` for two codes a byte, that of the lower four bits first.

    Returns
    -------
    float32[codes]

    """
    if dtype.name == "F4":
        return np.take(_pairs(), raw).view(np.float32)
    values = np.empty(raw.size, np.float32)
    decode_into(raw, dtype, values)
    return values


@functools.cache
def _pairs() -> NDArray[Any]:
    """Give the two float32 values of every byte of 4-bit codes, taken as one item of eight bytes."""
    byte = np.arange(256)
    values = np.array(FLOAT4_VALUES, np.float32)
    return np.stack((values[byte & 15], values[byte >> 4]), axis=1).reshape(-1).view(np.uint64)
