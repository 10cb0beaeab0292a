"""Linear combinations with different coefficients for every row, or for every column, of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.mixing import add_column_grams, mix_columns, mix_rows, row_grams
from dovetail.engine.methods.decoding import STRETCH, ElementRange, Values, blocks, plain_statistics, stretches
from dovetail.engine.methods.mixture import Combination
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass

_LEAST_BLOCK, _MOST_BLOCK, _BLOCKS = 1 << 18, 1 << 22, 64
"""Least and greatest number of elements in a block of rows, and the number of blocks that is aimed at between these
bounds. A partial result is kept for each block."""


@dataclass(frozen=True, slots=True)
class RowMixture(OnePass):
    """Program of a combination row by row; every window holds whole rows, so that no reduce pass is needed."""

    length: int
    """Elements of the tensor."""
    row_length: int
    """Elements of a row."""
    sources: Combination
    """What is combined."""

    @property
    def _block(self) -> int:
        return max(1, STRETCH // self.row_length) * self.row_length

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to whole rows."""
        row = self.row_length
        return start // row * row, min(self.length, -(-stop // row) * row)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory for a window of `elements`."""
        size = min(elements, self._block)
        return self.sources.scratch_bytes(size) + 24 * len(self.sources.codes) ** 2 * (size // self.row_length + 1)

    def apply(self, chunk: Chunk, state: Any, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, a group of rows at a time."""
        row, overflowed = self.row_length, 0
        values = Values(chunk, self.sources.codes, min(self._block, self.length))
        for start, stop in stretches(chunk.start, chunk.stop, self._block):
            low, high = start // row * row, -(-stop // row) * row
            loaded = values.load(low, high, (start, stop))
            vectors, combined = self.sources.split(loaded)
            grams = np.empty(((high - low) // row, len(vectors), len(vectors)))
            row_grams(vectors, row, grams)
            with np.errstate(all="ignore"):
                coefficients = np.ascontiguousarray(self.sources.geometry.coefficients(grams))
            mixed = np.empty(high - low, np.float32)
            mix_rows(combined, row, coefficients, loaded[0], self.sources.adds, mixed)
            overflowed += self.sources.store(mixed[start - low : stop - low], out, start - chunk.start)
        return plain_statistics(self.sources.models, overflowed, values.nonfinite)


@dataclass(frozen=True, slots=True)
class ColumnMixture:
    """Program of a combination column by column; a column runs along the first dimension."""

    length: int
    """Elements of the tensor."""
    columns: int
    """Number of columns: the elements at one index of the first dimension."""
    sources: Combination
    """What is combined."""

    @property
    def _block(self) -> int:
        """Elements of a block of rows, which does not depend on the chunks."""
        wanted = min(_MOST_BLOCK, max(_LEAST_BLOCK, self.length // _BLOCKS))
        return max(1, wanted // self.columns) * self.columns

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: one, for the dot products of all columns."""
        return 1

    def partial_bytes(self, elements: int) -> int:
        """Dot products of all columns for each block that begins in a chunk."""
        return self._grams_bytes * (elements // self._block + 1)

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """The sums of all columns' dot products, a copy of them for the coefficients, and these."""
        return 3 * self._grams_bytes

    @property
    def _grams_bytes(self) -> int:
        """Bytes of one block's dot products of all columns."""
        return 8 * self.sources.vectors**2 * self.columns

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to the end of the last block that begins in it."""
        block = self._block
        first = -(-start // block) * block
        return start, stop if first >= stop else min(self.length, -(-stop // block) * block)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory for a window of `elements`."""
        return self.sources.scratch_bytes(min(elements, STRETCH)) + self.partial_bytes(elements)

    def reduce(self, step: int, chunk: Chunk, state: Any) -> NDArray[np.float64]:
        """Compute the dot products of all columns for each block that begins in a chunk.

        Returns
        -------
        float64[blocks, V, V, columns]
            For each block and column, the products of all pairs of vectors.

        """
        count = self.sources.vectors
        values = Values(chunk, self.sources.codes, min(STRETCH, self.length))
        found = []
        for first, last in blocks(chunk, self.length, self._block):
            grams = np.zeros((count, count, self.columns))
            for start, stop in stretches(first, last, STRETCH):
                vectors, _ = self.sources.split(values.load(start, stop, (start, stop)))
                add_column_grams(vectors, self.columns, start % self.columns, grams)
            found.append(grams)
        return np.array(found).reshape(-1, count, count, self.columns)

    def begin(self, step: int, state: Any) -> NDArray[np.float64]:
        """Begin with dot products of zero: float64[V, V, columns]."""
        return np.zeros((self.sources.vectors, self.sources.vectors, self.columns))

    def fold(self, step: int, accumulator: NDArray[np.float64], partial: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add a chunk's blocks, one after another: block by block, the sum does not depend on the chunks."""
        with np.errstate(all="ignore"):
            for block in partial:
                accumulator += block
        return accumulator

    def finish(self, step: int, accumulator: NDArray[np.float64], state: Any) -> NDArray[np.float64]:
        """Find the coefficients: float64[vectors, columns]."""
        with np.errstate(all="ignore"):
            found = self.sources.geometry.coefficients(np.moveaxis(accumulator, -1, 0))
        return np.ascontiguousarray(found.T)

    def apply(self, chunk: Chunk, state: NDArray[np.float64], out: Bytes) -> ChunkStatistics:
        """Merge a chunk, stretch by stretch."""
        overflowed = 0
        values = Values(chunk, self.sources.codes, min(STRETCH, self.length))
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            loaded = values.load(start, stop, (start, stop))
            _, combined = self.sources.split(loaded)
            mixed = np.empty(stop - start, np.float32)
            mix_columns(combined, start % self.columns, state, loaded[0], self.sources.adds, mixed)
            overflowed += self.sources.store(mixed, out, start - chunk.start)
        return plain_statistics(self.sources.models, overflowed, values.nonfinite)
