"""Sums of sparsified task vectors: the family of ties, dare, breadcrumbs, della and magnitude pruning.

W = W0 + lambda * sum(w_j s(tau_j)) [/ divisor], where s keeps a part of the elements (`keeps`) and may rescale it so
that its sum of magnitudes is that of the whole. With voting, only contributions of the elected sign count, and the
divisor is the sum of their weights. mergekit's ``generalized_task_arithmetic`` defines the family's parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.consensus import keep_masked
from dovetail.engine.kernels.election import add_scaled, add_voting, elect_signs, scale_change
from dovetail.engine.kernels.sums import sum_magnitudes
from dovetail.engine.methods.decoding import PIECE, Floats, Marks, Range, TaskVectors, pieces
from dovetail.engine.methods.keeps import Keep, KeepByRank, Marker, marker_scratch_bytes
from dovetail.engine.methods.masked import PieceSum
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics
from dovetail.engine.methods.threshold import DIGITS, Counts, DigitCounter, Rules, count_partial_bytes, follow

LEAST_NORM = 1e-7
"""Sums of magnitudes below this do not rescale, as in mergekit."""
NO_LEAST = np.float32(-np.inf)
"""Divisors of voting have no lower bound."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the reduce passes have found."""

    rules: tuple[Rules, ...]
    """Each model's rules for its ranks."""
    scales: tuple[float, ...]
    """Each model's rescaling factor."""


@dataclass(frozen=True, slots=True)
class SparsifiedSum:
    """A sum of sparsified task vectors."""

    length: int
    """Elements of the tensor."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    weights: tuple[float, ...]
    """The models' weights."""
    keeps: tuple[Keep, ...]
    """What each model keeps."""
    rescale: bool
    """Whether what is kept is rescaled."""
    voting: bool
    """Whether signs are elected."""
    normalize: bool
    """Whether the sum is divided by weights: by `divisor`, or with voting by those of the elected sign."""
    divisor: float
    """Sum of all weights; 1 where it does not divide."""
    factor: float
    """What the sum is multiplied by at last (lambda)."""

    @property
    def _row(self) -> int:
        """Elements of a row, where ranks in rows matter."""
        return max((keep.row_length for keep in self.keeps if isinstance(keep, KeepByRank)), default=1)

    @property
    def _block(self) -> int:
        """Elements of the blocks over which magnitudes are summed, whatever the chunks: whole rows."""
        row = self._row
        return max(1, PIECE // row) * row

    @property
    def _searches(self) -> bool:
        return any(keep.ranks for keep in self.keeps)

    @property
    def _rescales(self) -> bool:
        return self.rescale and not all(keep.everything for keep in self.keeps)

    @property
    def reduce_passes(self) -> int:
        """Three to find the rules of ranks, one to find the scales."""
        return DIGITS * self._searches + self._rescales

    def partial_bytes(self, elements: int) -> int:
        """Histograms of every rule, or the sums of a chunk's blocks."""
        rules = sum(len(keep.ranks) for keep in self.keeps)
        sums = 16 * len(self.keeps) * (elements // self._block + 1) if self._rescales else 0
        return max(count_partial_bytes(rules), sums)

    def window(self, start: int, stop: int) -> Range:
        """Widen a chunk to whole rows, and to the end of the last block that begins in it."""
        row, block = self._row, self._block if self._rescales else self._row
        return start // row * row, min(self.length, -(-stop // block) * block)

    def scratch_bytes(self, elements: int) -> int:
        """Working memory for a window of that many elements."""
        size, models = min(elements, self._block + 2 * self._row), len(self.weights)
        lines = 5 if self.voting else 0
        return TaskVectors.scratch_bytes(size) + size * (models + 8 + 4 * lines) + models * marker_scratch_bytes(size)

    def reduce(self, step: int, chunk: Chunk, state: Found | None) -> Any:
        """Count magnitudes, then sum them."""
        if self._searches and step < DIGITS:
            return self._count(step, chunk, state)
        return self._sum(chunk, state or self._nothing)

    def combine(self, step: int, partials: Sequence[Any], state: Found | None) -> Found:
        """Find the next digit of every rule, then the scales."""
        state = state or self._nothing
        if self._searches and step < DIGITS:
            rules = (
                follow(step, [partial[model] for partial in partials], keep.ranks, state.rules[model])
                if keep.ranks
                else ()
                for model, keep in enumerate(self.keeps)
            )
            return Found(tuple(rules), state.scales)
        sums = np.concatenate(partials)
        scales = (
            _scale(fsum(sums[:, model, 0]), fsum(sums[:, model, 1])) if not keep.everything else 1.0
            for model, keep in enumerate(self.keeps)
        )
        return Found(state.rules, tuple(scales))

    @property
    def _nothing(self) -> Found:
        return Found(((),) * len(self.keeps), (1.0,) * len(self.keeps))

    def _count(self, digit: int, chunk: Chunk, state: Found | None) -> tuple[Counts, ...]:
        """Count one digit of the magnitudes of every model that has ranks."""
        state = state or self._nothing
        counters = {
            model: DigitCounter(digit, state.rules[model]) for model, keep in enumerate(self.keeps) if keep.ranks
        }
        vectors = TaskVectors(chunk, self.codes, PIECE)
        for start, stop in pieces(chunk.start, chunk.stop, PIECE):
            vectors.begin(start, stop, (start, stop))
            for model, counter in counters.items():
                counter.add(vectors.tau(model, start, stop))
        return tuple(counters[model].counts if model in counters else () for model in range(len(self.keeps)))

    def _sum(self, chunk: Chunk, state: Found) -> NDArray[np.float64]:
        """Sum the magnitudes of all and of what is kept: float64[blocks, models, 2], for blocks that begin here."""
        block = self._block
        first = -(-chunk.start // block) * block
        last = min(self.length, -(-chunk.stop // block) * block)
        vectors, markers, size = self._begin(chunk, state)
        kept = np.empty(size, np.float32)
        found = []
        for start, stop in pieces(chunk.start, last if first < last else chunk.start, block):
            sums = np.zeros((len(self.keeps), 2))
            for model, tau, mask in self._mark(vectors, markers, start, stop):
                keep_masked(tau, mask, kept[: stop - start])
                sums[model] = sum_magnitudes(tau), sum_magnitudes(kept[: stop - start])
            if start >= first:  # else it is the end of a block that began in the chunk before
                found.append(sums)
        return np.array(found).reshape(-1, len(self.keeps), 2)

    def _begin(self, chunk: Chunk, state: Found) -> tuple[TaskVectors, list[Marker], int]:
        """Give a chunk's task vectors, a marker for each model, and the most elements of a piece with its rows."""
        size = min(self.length, self._block + 2 * self._row)
        marked = zip(self.keeps, state.rules, strict=True)
        markers = [keep.marker(rules, chunk.index, size) for keep, rules in marked]
        return TaskVectors(chunk, self.codes, size), markers, size

    def _mark(
        self, vectors: TaskVectors, markers: Sequence[Marker], start: int, stop: int
    ) -> Iterator[tuple[int, Floats, Marks]]:
        """Give every model's task vector and mask of a piece; pieces come in order, without a gap."""
        low, high = start // self._row * self._row, -(-stop // self._row) * self._row
        vectors.begin(low, high, (start, stop))
        for model, marker in enumerate(markers):
            tau = vectors.tau(model, low, high)
            mask = marker.mark(tau, low, start, stop)
            yield model, tau[start - low : stop - low], mask

    def apply(self, chunk: Chunk, state: Found | None, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, piece by piece."""
        state = state or self._nothing
        vectors, markers, size = self._begin(chunk, state)
        merged = _Sum(self, state.scales, vectors, size)
        for start, stop in pieces(chunk.start, chunk.stop, self._block):
            merged.begin(stop - start)
            for model, tau, mask in self._mark(vectors, markers, start, stop):
                merged.add(model, tau, mask)
            merged.finish(vectors.base(start, stop), out, self.out_code, start - chunk.start)
        return merged.statistics


class _Sum(PieceSum):
    """The sum of scaled and weighted contributions, with or without voting."""

    def __init__(self, program: SparsifiedSum, scales: Sequence[float], vectors: TaskVectors, size: int) -> None:
        super().__init__(vectors.nonfinite, len(program.weights), size)
        self._program = program
        self._scales, self._weights = np.array(scales, np.float32), np.array(program.weights, np.float32)
        self._sums = np.empty((5, size), np.float32) if program.voting else None

    def begin(self, size: int) -> None:
        """Start a piece of `size` elements."""
        super().begin(size)
        if self._sums is not None:
            self._sums[:, :size] = 0

    def _add(self, model: int, tau: Floats, mask: Marks) -> None:
        scale, weight = self._scales[model], self._weights[model]
        if self._sums is not None:
            add_voting(tau, mask, scale, weight, self._sums)
        else:
            add_scaled(tau, mask, scale, weight, self._delta[: self._size])

    def _resolve(self, delta: Floats) -> None:
        divisor = np.float32(1.0)
        if self._sums is not None:
            elect_signs(self._sums, self._program.normalize, NO_LEAST, delta)
        elif self._program.normalize:
            divisor = np.float32(self._program.divisor)
        scale_change(delta, divisor, np.float32(self._program.factor))


def _scale(whole: float, kept: float) -> float:
    """Give the factor that makes the sum of what is kept that of the whole, rounded once."""
    if whole < LEAST_NORM or kept < LEAST_NORM:
        return 1.0
    with np.errstate(all="ignore"):
        return float(np.float32(whole / kept))
