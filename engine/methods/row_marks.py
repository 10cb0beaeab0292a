"""Sums of task vectors of which models keep a part at random: one kernel marks, another adds up what is marked.

The pass that sums magnitudes marks everything that the apply pass needs. Where memory allows, the marks are held, one
bit for each element and model (see `program.Holding`); else the apply pass marks anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import ITEMSIZES
from dovetail.engine.kernels.marked_sum import TILE, marked_sum
from dovetail.engine.kernels.rank_scratch import BINS, rank_scratch_bytes
from dovetail.engine.kernels.reading import STEP
from dovetail.engine.kernels.row_marks import EVERYTHING, RANDOM, RANKED, mark_blocks
from dovetail.engine.kernels.sums import LANES, ROW
from dovetail.engine.methods.decoding import block_count, blocks, no_totals, statistics_of, stored, stretches
from dovetail.engine.methods.keeps import Keep, KeepAtRandom, KeepByRank
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics

Bits = NDArray[np.uint8]
"""Marks of one bit, the lowest bit of a byte first, in a line for each block and model."""

_BYTE = 8


@dataclass(frozen=True, slots=True)
class HeldMarks:
    """What models keep of some blocks that follow each other."""

    first: int
    """The first of the blocks."""
    bits: Bits
    """``bits[b, j]``: what model j keeps of block ``first + b``."""


@dataclass(frozen=True, slots=True)
class RowMarks:
    """How models keep parts of one tensor at random, some of them perhaps by rank in rows."""

    keeps: tuple[Keep, ...]
    """What each model keeps; none of them a band of ranks."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    length: int
    """Elements of the tensor."""
    row: int
    """Elements of a row; 1 if no model ranks."""
    block: int
    """Elements of a block: whole rows. The sums of magnitudes of each block are rounded by themselves."""
    by_tile: bool
    """Whether sums are rounded tile by tile too, as `dovetail.engine.kernels.sparsified` does."""

    def held_bytes(self, elements: int, chunks: int) -> int:
        """Give the most memory that the marks of a tensor take, in so many chunks of so many elements."""
        return chunks * block_count(elements, self.block) * len(self.keeps) * self._line_bytes

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory for a window of so many elements."""
        size, models = min(elements, self.block), len(self.keeps)
        marking = (4 * models + 4 * 3 + 1) * size + 4 * (models + 2) * ROW + size // 4 + rank_scratch_bytes(self.row)
        adding = 4 * (models + 2) * STEP + models * TILE // _BYTE + 2 * (2 * models + 2) * 8 * LANES
        return marking + adding + models * self._line_bytes

    @property
    def _line_bytes(self) -> int:
        return -(-self.block // _BYTE)

    def find(self, chunk: Chunk, *, hold: bool) -> tuple[NDArray[np.float64], tuple[HeldMarks, ...]]:
        """Mark the blocks that begin in a chunk.

        Parameters
        ----------
        chunk
            The chunk, with the last of the blocks in its window.
        hold
            Whether the marks are wanted.

        Returns
        -------
        float64[blocks, models, 2], tuple of HeldMarks
            The sums of magnitudes, over each task vector and over its kept part; and the marks, if they are wanted.

        """
        found = list(blocks(chunk, self.length, self.block))
        sums = np.zeros((len(found), len(self.keeps), 2))
        bits = np.zeros((len(found) if hold else 1, len(self.keeps), self._line_bytes), np.uint8)
        _Marker(self, chunk)([(start, stop, 0) for start, stop in found], bits, sums)
        return sums, (HeldMarks(found[0][0] // self.block, bits),) if hold and found else ()

    def apply(
        self,
        chunk: Chunk,
        held: Sequence[HeldMarks],
        factors: NDArray[np.float32],
        options: tuple[bool, bool, np.float32, np.float32],
        out_code: int,
        out: Bytes,
    ) -> ChunkStatistics:
        """Merge a chunk, with the marks that are held, or anew.

        Parameters
        ----------
        chunk
            The chunk, with whole rows in its window.
        held
            The marks of all its blocks, in order; none if they are not held.
        factors, options, out
            As for `dovetail.engine.kernels.sparsified.sparsified_sum`.
        out_code
            Dtype code of the output.

        """
        totals, codes, overflowed = no_totals(len(self.keeps)), np.array((*self.codes, out_code), np.int64), 0
        raw = stored(chunk, self.codes, chunk.start, chunk.stop)
        for start, stop, first, bits in self._held(chunk, held) if held else self._anew(chunk):
            place = start - chunk.start, stop - chunk.start, start - first * self.block, self.block, self.by_tile
            overflowed += marked_sum(raw, codes, bits, place, factors, options, out, totals)
        return statistics_of(totals, overflowed)

    def part(self, held: Sequence[HeldMarks], start: int, stop: int) -> tuple[HeldMarks, ...]:
        """Take what elements ``start:stop`` need of the marks of a tensor."""
        low, high, found = start // self.block, -(-stop // self.block), list[HeldMarks]()
        for each in held:
            first, last = max(low, each.first), min(high, each.first + len(each.bits))
            if first < last:
                found.append(HeldMarks(first, each.bits[first - each.first : last - each.first]))
        return tuple(found)

    def _held(self, chunk: Chunk, held: Sequence[HeldMarks]) -> list[tuple[int, int, int, Bits]]:
        """List the parts of a chunk whose marks lie together: elements, first block, and marks."""
        return [
            (
                max(chunk.start, each.first * self.block),
                min(chunk.stop, (each.first + len(each.bits)) * self.block),
                each.first,
                each.bits,
            )
            for each in self.part(held, chunk.start, chunk.stop)
        ]

    def _anew(self, chunk: Chunk) -> Iterator[tuple[int, int, int, Bits]]:
        """Mark the parts of a chunk that lie in one block each, one after another."""
        mark, unneeded = _Marker(self, chunk), np.empty((1, len(self.keeps), 2))
        bits = np.empty((1, len(self.keeps), self._line_bytes), np.uint8)
        for start, stop in stretches(chunk.start, chunk.stop, self.block):
            low, high = start // self.row * self.row, min(self.length, -(-stop // self.row) * self.row)
            first = start // self.block
            mark([(low, high, low - first * self.block)], bits, unneeded)
            yield start, stop, first, bits


class _Marker:
    """Calls the kernel that marks for one chunk."""

    def __init__(self, of: RowMarks, chunk: Chunk) -> None:
        kinds, numbers = np.zeros(len(of.keeps), np.int64), np.zeros((len(of.keeps), 2))
        streams, key = np.zeros(len(of.keeps), np.int64), np.zeros(2, np.uint64)
        for model, keep in enumerate(of.keeps):
            kinds[model] = EVERYTHING
            if isinstance(keep, KeepAtRandom | KeepByRank):
                kinds[model], streams[model], key[:] = RANDOM, keep.stream, keep.key
                numbers[model, 0] = keep.density
            if isinstance(keep, KeepByRank):
                kinds[model], numbers[model, 1] = RANKED, keep.epsilon
        self._keeps = kinds, numbers, streams, key, of.row
        self._run = TILE if of.by_tile else of.block
        self._low, self._counts = chunk.window_start, np.zeros(BINS, np.uint32)
        self._codes = np.array(of.codes, np.int64)
        high = self._low + len(chunk.models[0]) // ITEMSIZES[of.codes[1]]
        self._stored = stored(chunk, of.codes, self._low, high)

    def __call__(self, ranges: Sequence[tuple[int, int, int]], bits: Bits, sums: NDArray[np.float64]) -> None:
        """Mark whole rows: the first element of each range, one past its last, and the bit of its block for the first.

        `bits` and `sums` are as for `dovetail.engine.kernels.row_marks.mark_blocks`.
        """
        low, places = self._low, np.empty((len(ranges), 4), np.int64)
        for place, (start, stop, first) in zip(places, ranges, strict=True):
            place[:] = start - low, stop - low, start, first
        mark_blocks(self._stored, self._codes, self._keeps, places, self._run, self._counts, bits, sums)
