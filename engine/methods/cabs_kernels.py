"""CABS over whole kernels (``granularity: kernel``): n of every m rows of a tensor, claimed model by model.

A row is everything at one index of the first dimension: the kernel of a convolution, which makes one channel, or the
weights of one neuron of a linear layer. Rows are ranked by the sum of the magnitudes of their changes, the norm by
which filters are pruned in https://arxiv.org/abs/1608.08710; the masks of rows are then those that algorithm 1 of
https://arxiv.org/abs/2503.01874 gives for elements. So two models never change one channel, where CABS over elements
mixes both in every channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.general import claim_blocks
from dovetail.engine.kernels.sums import sum_magnitudes
from dovetail.engine.methods.cabs_sum import AddsMasked
from dovetail.engine.methods.decoding import STRETCH, ElementRange, Marks, TaskVectors, stretches
from dovetail.engine.methods.masked import BeginSum, StretchSum
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, EveryChunk

Sums = NDArray[np.float64]
"""Sums of magnitudes: ``[models, parts of rows]``."""


@dataclass(frozen=True, slots=True)
class KernelCabs(AddsMasked, EveryChunk):
    """Program of CABS with n:m blocks of rows."""

    length: int
    """Elements of the tensor."""
    row: int
    """Elements of a row."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    n: tuple[int, ...]
    """For each model, how many rows of a block it keeps."""
    m: tuple[int, ...]
    """For each model, the rows of a block."""
    weights: tuple[float, ...]
    """The models' weights."""
    mode: int
    """What claims of earlier models mean: IGNORE, FORBID or MINIMIZE."""
    ties: bool
    """Whether rows kept by several models are merged by sign election instead of a sum."""

    @property
    def _parts(self) -> int:
        """Parts of a row: a long one is summed part by part, so that the sums do not depend on the chunks."""
        return -(-self.row // STRETCH)

    def _part(self, element: int) -> ElementRange:
        """Find the part of a row that an element belongs to."""
        row, place = divmod(element, self.row)
        first = row * self.row + place // STRETCH * STRETCH
        return first, min(first + STRETCH, (row + 1) * self.row)

    @property
    def reduce_passes(self) -> int:
        """One, which sums the magnitudes of every row."""
        return 1

    def partial_bytes(self, elements: int) -> int:
        """Bytes of the sums of the parts that begin in a chunk."""
        return 8 * len(self.n) * (elements // min(self.row, STRETCH) + 2)

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """The sums of all parts, one by one and joined; and for every row its sums, claims, marks and ranks."""
        rows, models = self.length // self.row, len(self.n)
        return 16 * models * (rows * self._parts + 2 * chunks) + rows * (14 * models + 2) + 8 * max(self.m)

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to the end of the last part that begins in it."""
        return start, max(stop, self._part(stop - 1)[1])

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory for a window of `elements`."""
        size = min(elements, STRETCH)
        merge = self.summing_bytes(size)
        return TaskVectors.scratch_bytes(size) + merge + 4 * size  # masks, of which numpy makes copies

    def marking_bytes(self, elements: int) -> int:
        """Bytes of working memory of `mark` for a window of `elements`."""
        return self.scratch_bytes(elements)

    def reduce(self, step: int, chunk: Chunk, state: None) -> Sums:
        """Sum the magnitudes of the parts that begin in a chunk."""
        parts = list(self._beginning(chunk))
        sums = np.empty((len(self.n), len(parts)))
        vectors = TaskVectors(chunk, self.codes, STRETCH)
        done = 0
        while done < len(parts):
            first, last, count = parts[done][0], parts[done][1], 1
            while done + count < len(parts) and parts[done + count][1] - first <= STRETCH:
                last, count = parts[done + count][1], count + 1
            vectors.begin(first, last, (first, first))
            for model in range(len(self.n)):
                tau = vectors.tau(model, first, last)
                for place, (low, high) in enumerate(parts[done : done + count], done):
                    sums[model, place] = sum_magnitudes(tau[low - first : high - first])
            done += count
        return sums

    def _beginning(self, chunk: Chunk) -> Iterator[ElementRange]:
        """List the parts of rows that begin in a chunk."""
        low, high = self._part(chunk.start)
        if low < chunk.start:
            low, high = high, self._part(high)[1]
        while low < chunk.stop:
            yield low, high
            low, high = high, self._part(high)[1]

    def begin(self, step: int, state: None) -> list[Sums]:
        """Begin to gather sums."""
        return []

    def fold(self, step: int, accumulator: list[Sums], partial: Sums) -> list[Sums]:
        """Keep a chunk's sums."""
        accumulator.append(partial)
        return accumulator

    def finish(self, step: int, accumulator: list[Sums], state: None) -> NDArray[np.uint8]:
        """Let the models claim rows, one after another.

        Returns
        -------
        uint8[models, rows]
            1 for the rows that a model keeps.

        """
        sums = np.concatenate(accumulator, axis=1)
        accumulator.clear()
        rows = self.length // self.row
        claims, masks = np.zeros(rows, np.uint16), np.empty((len(self.n), rows), np.uint8)
        ranks = np.empty(min(rows, max(self.m)), np.int64)
        for model, (n, m) in enumerate(zip(self.n, self.m, strict=True)):
            with np.errstate(over="ignore", invalid="ignore"):
                norms = sums[model].reshape(rows, self._parts).sum(axis=1).astype(np.float32)
            claim_blocks(norms, n, m, self.mode, claims, masks[model], ranks)
        return masks

    def apply(self, chunk: Chunk, state: NDArray[np.uint8], out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        return self.mark(chunk, state, self.begin_sum, out).statistics

    def mark(self, chunk: Chunk, state: NDArray[np.uint8], begin: BeginSum, out: Bytes) -> StretchSum:
        """Go through a chunk stretch by stretch, and hand a sum what each model keeps; see `marking.Marking`."""
        size = min(STRETCH, chunk.stop - chunk.start)
        vectors = TaskVectors(chunk, self.codes, size)
        merged = begin(vectors.nonfinite, size)
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            vectors.begin(start, stop, (start, stop))
            merged.begin(stop - start)
            for model, rows in enumerate(state):
                tau = vectors.tau(model, start, stop)
                merged.add(model, tau, self._mask(rows, start, stop) * (tau != 0))
            merged.finish(vectors.base(start, stop), out, self.out_code, start - chunk.start)
        return merged

    def _mask(self, rows: NDArray[np.uint8], start: int, stop: int) -> Marks:
        """Spread the marks of rows over their elements."""
        first, last = start // self.row, (stop - 1) // self.row
        lengths = np.full(last - first + 1, self.row)
        lengths[0] -= start - first * self.row
        lengths[-1] -= (last + 1) * self.row - stop
        return np.repeat(rows[first : last + 1], lengths)
