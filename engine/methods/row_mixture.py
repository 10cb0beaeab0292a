"""Linear combinations with different coefficients for every row, or for every column, of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import ITEMSIZES
from dovetail.engine.kernels.mixing import (
    add_column_grams,
    mix_columns,
    mix_rows,
    mix_sources,
    row_grams,
    source_gram,
    tile_bytes,
)
from dovetail.engine.kernels.products import lane_bytes
from dovetail.engine.methods.decoding import (
    STRETCH,
    ElementRange,
    Values,
    block_count,
    blocks,
    plain_statistics,
    stretches,
)
from dovetail.engine.methods.mixture import Combination, parted
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, EveryChunk, OnePass

_LEAST_BLOCK, _MOST_BLOCK, _BLOCKS = 1 << 18, 1 << 22, 64
"""Least and greatest number of elements in a block of rows, and the number of blocks that is aimed at between these
bounds. A partial result is kept for each block."""

_COLUMNS_AT_ONCE = 1 << 13
"""Most columns whose coefficients are found at a time."""


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
        if self.row_length > STRETCH:
            return tile_bytes(len(self.sources.codes))
        size = min(elements, self._block)
        rows = 8 * self.row_length + 24 * len(self.sources.codes) ** 2 * (size // self.row_length + 1)
        return self.sources.scratch_bytes(size) + rows + lane_bytes(self.sources.vectors)

    def apply(self, chunk: Chunk, state: Any, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, a group of rows at a time."""
        if self.row_length > STRETCH:
            return self._apply_long(chunk, out)
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

    def _apply_long(self, chunk: Chunk, out: Bytes) -> ChunkStatistics:
        """Merge a chunk of long rows, each decoded twice, tile by tile: for its dot products and to be combined.

        Sums are added up tile by tile too where rows are decoded whole, so that the bits are the same.
        """
        sources, row, overflowed = self.sources, self.row_length, 0
        codes, size = np.array(sources.codes, np.int64), ITEMSIZES[sources.out_code]
        nonfinite = np.zeros(len(codes), np.int64)
        for start, stop in stretches(chunk.start, chunk.stop, row):
            first, grams = start // row * row, np.empty((1, sources.vectors, sources.vectors))
            source_gram(*parted(sources.stored(chunk, first, first + row), sources.relative), codes, 0, row, grams[0])
            with np.errstate(all="ignore"):
                coefficients = np.ascontiguousarray(sources.geometry.coefficients(grams)[0])
            part = out[(start - chunk.start) * size : (stop - chunk.start) * size]
            base, vectors = parted(sources.stored(chunk, start, stop), sources.adds)
            overflowed += mix_sources(base, vectors, codes, coefficients, part, sources.out_code, nonfinite)
        return plain_statistics(sources.models, overflowed, nonfinite)


@dataclass(frozen=True, slots=True)
class ColumnMixture(EveryChunk):
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
        return self._grams_bytes * block_count(elements, self._block)

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """The sums of all columns' dot products, the coefficients, and what some columns' take while they are found."""
        vectors, some = self.sources.vectors, min(self.columns, _COLUMNS_AT_ONCE)
        return self._grams_bytes + 8 * (vectors + 1) * self.columns + 16 * (vectors + 4) ** 2 * some

    @property
    def _pairs(self) -> int:
        """Number of pairs of vectors, each with itself among them."""
        return self.sources.vectors * (self.sources.vectors + 1) // 2

    @property
    def _grams_bytes(self) -> int:
        """Bytes of one block's dot products of all columns."""
        return 8 * self._pairs * self.columns

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to the end of the last block that begins in it."""
        block = self._block
        first = -(-start // block) * block
        return start, stop if first >= stop else min(self.length, -(-stop // block) * block)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory for a window of `elements`."""
        return self.sources.scratch_bytes(min(elements, STRETCH)) + 8 * min(elements, STRETCH)

    def reduce(self, step: int, chunk: Chunk, state: Any) -> NDArray[np.float64]:
        """Compute the dot products of all columns for each block that begins in a chunk.

        Returns
        -------
        float64[blocks, pairs, columns]
            For each block and column, the products of all pairs of vectors: the lower triangle of a matrix, row by row.

        """
        values = Values(chunk, self.sources.codes, min(STRETCH, self.length))
        begun = list(blocks(chunk, self.length, self._block))
        found = np.zeros((len(begun), self._pairs, self.columns))
        for (first, last), grams in zip(begun, found, strict=True):
            for start, stop in stretches(first, last, STRETCH):
                vectors, _ = self.sources.split(values.load(start, stop, (start, stop)))
                add_column_grams(vectors, self.columns, start % self.columns, grams)
        return found

    def begin(self, step: int, state: Any) -> NDArray[np.float64]:
        """Begin with dot products of zero: float64[pairs, columns]."""
        return np.zeros((self._pairs, self.columns))

    def fold(self, step: int, accumulator: NDArray[np.float64], partial: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add a chunk's blocks, one after another: block by block, the sum does not depend on the chunks."""
        with np.errstate(all="ignore"):
            for block in partial:
                accumulator += block
        return accumulator

    def finish(self, step: int, accumulator: NDArray[np.float64], state: Any) -> NDArray[np.float64]:
        """Find the coefficients, some columns at a time: float64[vectors, columns]."""
        count = self.sources.vectors
        below, above = np.tril_indices(count)
        found = np.empty((0, 0))
        for first in range(0, self.columns, _COLUMNS_AT_ONCE):
            some = accumulator[:, first : first + _COLUMNS_AT_ONCE]
            grams = np.empty((count, count, some.shape[1]))
            grams[below, above] = grams[above, below] = some
            with np.errstate(all="ignore"):
                part = self.sources.geometry.coefficients(np.moveaxis(grams, -1, 0)).T
            found = found if found.size else np.empty((len(part), self.columns))
            found[:, first : first + part.shape[1]] = part
        return found

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
