"""Linear combinations with coefficients of their own for every row, or every column, of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.mixing import add_column_grams, mix_columns, mix_rows, row_grams
from dovetail.engine.methods.decoding import PIECE, ElementRange, Values, blocks, pieces, plain_statistics
from dovetail.engine.methods.mixture import Combination
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass

_LEAST_BLOCK, _MOST_BLOCK, _BLOCKS = 1 << 18, 1 << 22, 64
"""Bounds of a block of rows, in elements, and the number of blocks between them: partial results are a block each."""


@dataclass(frozen=True, slots=True)
class RowMixture(OnePass):
    """A combination row by row: rows are whole in every window, so that nothing needs a pass before."""

    length: int
    """Elements of the tensor."""
    row_length: int
    """Elements of a row."""
    sources: Combination
    """What is combined."""

    @property
    def _block(self) -> int:
        return max(1, PIECE // self.row_length) * self.row_length

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to whole rows."""
        row = self.row_length
        return start // row * row, min(self.length, -(-stop // row) * row)

    def scratch_bytes(self, elements: int) -> int:
        """Working memory for a window of that many elements."""
        size = min(elements, self._block)
        return self.sources.scratch_bytes(size) + 24 * len(self.sources.codes) ** 2 * (size // self.row_length + 1)

    def apply(self, chunk: Chunk, state: Any, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, a group of rows at a time."""
        row, overflowed = self.row_length, 0
        values = Values(chunk, self.sources.codes, min(self._block, self.length))
        for start, stop in pieces(chunk.start, chunk.stop, self._block):
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
    """A combination column by column, a column being what the first dimension runs along."""

    length: int
    """Elements of the tensor."""
    columns: int
    """Number of columns: elements of one step along the first dimension."""
    sources: Combination
    """What is combined."""

    @property
    def _block(self) -> int:
        """Elements of a block of rows, whatever the chunks."""
        wanted = min(_MOST_BLOCK, max(_LEAST_BLOCK, self.length // _BLOCKS))
        return max(1, wanted // self.columns) * self.columns

    @property
    def reduce_passes(self) -> int:
        """One, for the dot products of all columns."""
        return 1

    def partial_bytes(self, elements: int) -> int:
        """Dot products of all columns for each block that begins in a chunk."""
        return 8 * self.sources.vectors**2 * self.columns * (elements // self._block + 1)

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to the end of the last block that begins in it."""
        block = self._block
        first = -(-start // block) * block
        return start, stop if first >= stop else min(self.length, -(-stop // block) * block)

    def scratch_bytes(self, elements: int) -> int:
        """Working memory for a window of that many elements."""
        return self.sources.scratch_bytes(min(elements, PIECE)) + self.partial_bytes(elements)

    def reduce(self, step: int, chunk: Chunk, state: Any) -> NDArray[np.float64]:
        """Compute every column's dot products for the blocks that begin in a chunk: float64[blocks, V, V, columns]."""
        count = self.sources.vectors
        values = Values(chunk, self.sources.codes, min(PIECE, self.length))
        found = []
        for first, last in blocks(chunk, self.length, self._block):
            grams = np.zeros((count, count, self.columns))
            for start, stop in pieces(first, last, PIECE):
                vectors, _ = self.sources.split(values.load(start, stop, (start, stop)))
                add_column_grams(vectors, self.columns, start % self.columns, grams)
            found.append(grams)
        return np.array(found).reshape(-1, count, count, self.columns)

    def combine(self, step: int, partials: Sequence[NDArray[np.float64]], state: Any) -> NDArray[np.float64]:
        """Add up the blocks in order and find the coefficients: float64[vectors, columns]."""
        grams = np.zeros((self.sources.vectors, self.sources.vectors, self.columns))
        for partial in partials:
            for block in partial:
                grams += block
        with np.errstate(all="ignore"):
            found = self.sources.geometry.coefficients(np.moveaxis(grams, -1, 0))
        return np.ascontiguousarray(found.T)

    def apply(self, chunk: Chunk, state: NDArray[np.float64], out: Bytes) -> ChunkStatistics:
        """Merge a chunk, piece by piece."""
        overflowed = 0
        values = Values(chunk, self.sources.codes, min(PIECE, self.length))
        for start, stop in pieces(chunk.start, chunk.stop, PIECE):
            loaded = values.load(start, stop, (start, stop))
            _, combined = self.sources.split(loaded)
            mixed = np.empty(stop - start, np.float32)
            mix_columns(combined, start % self.columns, state, loaded[0], self.sources.adds, mixed)
            overflowed += self.sources.store(mixed, out, start - chunk.start)
        return plain_statistics(self.sources.models, overflowed, values.nonfinite)
