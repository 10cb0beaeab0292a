"""Sums of sparsified task vectors: the family of ties, dare, breadcrumbs, della and magnitude pruning.

W = W0 + lambda * sum(w_j s(tau_j)) [/ divisor], where s keeps a part of the elements (see `keeps`), and may rescale the
part so that its sum of magnitudes becomes that of the whole. With voting, only contributions of the elected sign are
summed, and the divisor is the sum of their weights. mergekit's ``generalized_task_arithmetic`` defines the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.sparsified import TILE, sparsified_norms, sparsified_sum
from dovetail.engine.kernels.sums import sum_magnitudes
from dovetail.engine.kernels.task_vectors import keep_masked
from dovetail.engine.methods.decoding import (
    STRETCH,
    ElementRange,
    Floats,
    Marks,
    TaskVectors,
    block_count,
    blocks,
    no_totals,
    statistics_of,
    stored,
    stretches,
)
from dovetail.engine.methods.gathering import count_in_brackets
from dovetail.engine.methods.keeps import (
    Keep,
    KeepAtRandom,
    KeepBand,
    KeepByRank,
    KeepEverything,
    Marker,
    bounds_of,
    describe_keeps,
    make_markers,
    marker_scratch_bytes,
)
from dovetail.engine.methods.marking import Addition
from dovetail.engine.methods.masked import BeginSum, StretchSum
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics
from dovetail.engine.methods.scaled_sum import ScaledSum, rescaling_factor
from dovetail.engine.methods.selection import BRACKET, PASSES, Search, is_fine
from dovetail.engine.methods.threshold import Rules

if TYPE_CHECKING:
    from dovetail.engine.methods.row_marks import HeldMarks, RowMarks


@dataclass(frozen=True, slots=True)
class Found:
    """What the reduce passes have found."""

    rules: tuple[Rules, ...]
    """For each model, the rules of its ranks."""
    scales: tuple[float, ...]
    """For each model, its rescaling factor."""
    held: tuple[HeldMarks, ...] = ()
    """What models keep at random, where that is held for the apply pass."""


@dataclass(frozen=True, slots=True)
class SparsifiedSum:
    """Program of a sum of sparsified task vectors."""

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
    """Whether the kept parts are rescaled."""
    voting: bool
    """Whether signs are elected."""
    normalize: bool
    """Whether the sum is divided: by `divisor` or, with voting, by the weights of the models with the elected sign."""
    divisor: float
    """Sum of all weights; 1 if it is too small to divide by."""
    factor: float
    """What the sum, or quotient, is multiplied by (lambda)."""
    sampled: bool = True
    """Whether a sample may show where the wanted ranks are."""
    holds: bool = False
    """Whether what models keep at random is held for the apply pass; that of a tensor of one chunk always is."""

    @property
    def _row(self) -> int:
        """Elements of a row, if a model ranks by rows; else 1."""
        return max((keep.row_length for keep in self.keeps if isinstance(keep, KeepByRank)), default=1)

    @property
    def _block(self) -> int:
        """Elements of the blocks over which magnitudes are summed: whole rows, and independent of the chunks."""
        row = self._row
        return max(1, STRETCH // row) * row

    @property
    def _searches(self) -> bool:
        return any(isinstance(keep, KeepBand) for keep in self.keeps)

    @property
    def _rescales(self) -> bool:
        return self.rescale and not all(isinstance(keep, KeepEverything) for keep in self.keeps)

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: those of a search if rules of ranks are needed, and one if rescaling factors are."""
        return PASSES * self._searches + self._rescales

    def partial_bytes(self, elements: int) -> int:
        """What a search takes, or the sums of a chunk's blocks."""
        return max(self._search.partial_bytes(elements), self._sums_bytes(elements))

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """What a search takes, and the sums of all chunks' blocks, kept one by one and joined."""
        held = self.held_bytes(elements, chunks) if chunks == 1 else 0
        return self._search.accumulator_bytes(chunks) + 2 * chunks * self._sums_bytes(elements) + held

    def held_bytes(self, elements: int, chunks: int) -> int:
        """Bytes of what models keep at random, where a pass finds it out before the apply pass."""
        return self._at_random.held_bytes(elements, chunks) if self._draws and self._rescales else 0

    def holding(self) -> SparsifiedSum:
        """Give the same program, which holds what models keep at random."""
        return replace(self, holds=True)

    def part(self, state: Found | None, start: int, stop: int) -> Found | None:
        """Leave out what is held of other elements than ``start:stop``."""
        return replace(state, held=self._at_random.part(state.held, start, stop)) if state and state.held else state

    @property
    def _search(self) -> Search:
        """The search for ranks; without any rules where no model keeps a band of ranks."""
        rules = sum(len(keep.ranks) for keep in self.keeps if isinstance(keep, KeepBand))
        return Search(self.length, rules, self.sampled and rules > 0, fine=is_fine(self.codes))

    def reads(self, step: int, state: Found | None) -> Sequence[ElementRange] | None:
        """What a search reads in its passes; everything where magnitudes are summed."""
        if not self._searches or step >= PASSES:
            return None
        return self._search.reads(step, state.rules if state else ())

    @property
    def readings(self) -> tuple[int, int]:
        """Those of a search, and one where magnitudes are summed."""
        passes, sampled = self._search.readings if self._searches else (0, 0)
        return passes + self._rescales, sampled

    def frugal(self) -> SparsifiedSum:
        """Search without a sample."""
        return replace(self, sampled=False) if self._search.samples else self

    def _sums_bytes(self, elements: int) -> int:
        """Give the bytes of the sums of the blocks that begin in a chunk."""
        return 16 * len(self.keeps) * block_count(elements, self._block) if self._rescales else 0

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to whole rows, and to the end of the last block that begins in it."""
        row, block = self._row, self._block if self._rescales else self._row
        return start // row * row, min(self.length, -(-stop // block) * block)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory for a window of `elements`."""
        return self._at_random.scratch_bytes(elements) if self._draws else self.marking_bytes(elements)

    def marking_bytes(self, elements: int) -> int:
        """Bytes of working memory of `mark` for a window of `elements`."""
        size, models = min(elements, self._block + 2 * self._row), len(self.weights)
        adding = ScaledSum.scratch_bytes(models, self.voting, 1)
        held = TaskVectors.scratch_bytes(size) + marker_scratch_bytes(size)
        if self._searches:
            held += self._search.scratch_bytes(min(elements, STRETCH))
        if self._row <= STRETCH:
            return held + adding * size
        return held + adding * STRETCH + max(models, 4) * size  # masks or, in the reduce pass, the kept part

    def most_kept(self, model: int, elements: int) -> int:
        """Give the most of so many elements in a row that a model can keep."""
        return elements

    def reduce(self, step: int, chunk: Chunk, state: Found | None) -> Any:
        """Count a chunk's magnitudes for the search or, in the last pass, sum them."""
        if self._searches and step < PASSES:
            return self._count(step, chunk, state)
        if self._draws:
            return self._at_random.find(chunk, hold=self.holds or chunk.stop - chunk.start == self.length)
        return (self._sum_fused(chunk, state or self._nothing) if self._fused else self._sum(chunk)), ()

    def begin(self, step: int, state: Found | None) -> list[Any]:
        """Begin to add up what is counted for every model, or to gather sums."""
        return [self._search.begin(step) for _ in self.keeps] if self._searches and step < PASSES else []

    def fold(self, step: int, accumulator: list[Any], partial: Any) -> list[Any]:
        """Add what is counted in a chunk, or keep its sums: they are rounded when all are there."""
        if self._searches and step < PASSES:
            search = self._search
            return [search.fold(step, *pair) for pair in zip(accumulator, partial, strict=True)]
        accumulator.append(partial)
        return accumulator

    def finish(self, step: int, accumulator: list[Any], state: Found | None) -> Found:
        """Find more of every rule, then the scales."""
        state = state or self._nothing
        if self._searches and step < PASSES:
            rules = list(state.rules)
            for model, keep in enumerate(self.keeps):
                if isinstance(keep, KeepBand):
                    rules[model] = self._search.finish(step, accumulator[model], keep.ranks, rules[model])
            return Found(tuple(rules), state.scales)
        sums = np.concatenate([found for found, _ in accumulator])
        scales = (
            rescaling_factor(fsum(sums[:, model, 0]), fsum(sums[:, model, 1]))
            if not isinstance(keep, KeepEverything)
            else 1.0
            for model, keep in enumerate(self.keeps)
        )
        return Found(state.rules, tuple(scales), tuple(each for _, held in accumulator for each in held))

    @property
    def _nothing(self) -> Found:
        return Found(((),) * len(self.keeps), (1.0,) * len(self.keeps))

    def _count(self, step: int, chunk: Chunk, state: Found | None) -> tuple[Any, ...]:
        """Count the magnitudes of every model that keeps a band of ranks."""
        rules = (state or self._nothing).rules
        searched = {model: rules[model] for model, keep in enumerate(self.keeps) if isinstance(keep, KeepBand)}
        found: dict[int, Any] = {}
        if step == BRACKET:
            found.update(count_in_brackets(chunk, self.codes, searched))
        else:
            vectors, room = TaskVectors(chunk, self.codes, STRETCH), np.empty(STRETCH, np.uint32)
            counters = {model: self._search.counter(step, each, room) for model, each in searched.items()}
            for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
                vectors.begin(start, stop, (start, start))  # what is not finite is counted when it is merged
                for model, counter in counters.items():
                    counter.add(vectors.tau(model, start, stop))
            found.update((model, counter.counts) for model, counter in counters.items())
        return tuple(found.get(model, ()) for model in range(len(self.keeps)))

    def _sum(self, chunk: Chunk) -> NDArray[np.float64]:
        """Sum magnitudes over the blocks that begin in a chunk, as `row_marks.RowMarks.find` does."""
        vectors, markers, size = self._begin(chunk, self._nothing)
        kept = np.empty(size, np.float32)
        found = []
        for start, stop in blocks(chunk, self.length, self._block):
            sums = np.zeros((len(self.keeps), 2))
            for model, tau, mask in self._mark(vectors, markers, start, stop):
                keep_masked(tau, mask, kept[: stop - start])
                sums[model] = sum_magnitudes(tau), sum_magnitudes(kept[: stop - start])
            found.append(sums)
        return np.array(found).reshape(-1, len(self.keeps), 2)

    def _begin(self, chunk: Chunk, state: Found) -> tuple[TaskVectors, list[Marker], int]:
        """Make a chunk's task vectors, a marker for each model, and the most elements of a stretch with whole rows."""
        low, high = self.window(chunk.start, chunk.stop)
        size = min(high - low, self._block + 2 * self._row)
        return (
            TaskVectors(chunk, self.codes, size),
            make_markers(self.keeps, bounds_of(state.rules, chunk.index), size),
            size,
        )

    def _mark(
        self, vectors: TaskVectors, markers: Sequence[Marker], start: int, stop: int, *, counted: bool = True
    ) -> Iterator[tuple[int, Floats, Marks]]:
        """Yield the index, task vector and mask of every model for elements ``start:stop``; count NaN, if `counted`."""
        low, high = start // self._row * self._row, -(-stop // self._row) * self._row
        vectors.begin(low, high, (start, stop if counted else start))
        for model, marker in enumerate(markers):
            tau = vectors.tau(model, low, high)
            mask = marker.mark(tau, low, start, stop)
            yield model, tau[start - low : stop - low], mask

    def apply(self, chunk: Chunk, state: Found | None, out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        found, divides = state or self._nothing, self.normalize and not self.voting
        factors = np.array((found.scales, self.weights), np.float32)
        divisor, factor = np.float32(self.divisor if divides else 1.0), np.float32(self.factor)
        options = self.voting, self.normalize, divisor, factor
        # Sums are rounded at the ends of tiles that are counted from the chunk's first element.
        if self._draws and (not self._fused or (found.held and chunk.start % TILE == 0)):
            return self._at_random.apply(chunk, found.held, factors, options, self.out_code, out)
        if self._fused:
            return self._apply_fused(chunk, found, factors, options, out)
        return self.mark(chunk, state, self._summing(self.scales(state)), out).statistics

    def mark(self, chunk: Chunk, state: Found | None, begin: BeginSum, out: Bytes) -> StretchSum:
        """Go through a chunk stretch by stretch, and hand a sum what each model keeps; see `marking.Marking`."""
        mark = self._mark_long if self._row > STRETCH else self._mark_short
        return mark(chunk, state or self._nothing, begin, out)

    def scales(self, state: Found | None) -> tuple[float, ...]:
        """Give what the kept parts are multiplied by."""
        return (state or self._nothing).scales

    @property
    def addition(self) -> Addition:
        """How the kept parts add up."""
        divides = self.normalize and not self.voting
        return Addition(
            weights=self.weights,
            rescales=self._rescales,
            voting=self.voting,
            by_count=False,
            normalize=self.normalize,
            divisor=self.divisor if divides else 1.0,
            factor=self.factor,
        )

    def _summing(self, scales: Sequence[float]) -> BeginSum:
        """Give what adds up the kept parts, which are multiplied by `scales` if they are rescaled."""
        factors = scales if self._rescales else (1.0,) * len(self.weights)
        options = self.voting, self.normalize, self.divisor, self.factor
        return lambda nonfinite, size: ScaledSum(nonfinite, size, (factors, self.weights), options)

    def _apply_fused(
        self, chunk: Chunk, state: Found, factors: Floats, options: tuple[Any, ...], out: Bytes
    ) -> ChunkStatistics:
        """Merge a chunk in one call."""
        codes = np.array((*self.codes, self.out_code), np.int64)
        raw = stored(chunk, self.codes, chunk.start, chunk.stop)
        keeps, totals = describe_keeps(self.keeps, bounds_of(state.rules, chunk.index)), no_totals(len(self.weights))
        overflowed = sparsified_sum(raw, codes, keeps, chunk.start, factors, options, out, totals)
        return statistics_of(totals, overflowed)

    def _sum_fused(self, chunk: Chunk, state: Found) -> NDArray[np.float64]:
        """Compute the same sums as `_sum`, with one call of a kernel for each block."""
        models, low = len(self.keeps), chunk.window_start
        keeps, codes = describe_keeps(self.keeps, bounds_of(state.rules, chunk.index)), np.array(self.codes, np.int64)
        raw = stored(chunk, self.codes, low, self.window(chunk.start, chunk.stop)[1])
        found, unneeded = [np.empty((0, models, 2))], np.empty((models, 2))
        first = -(-chunk.start // STRETCH) * STRETCH
        if chunk.start < first < chunk.stop:  # the end of an earlier block, of which only the ties are counted
            sparsified_norms(raw, codes, keeps, (chunk.start - low, first - low, chunk.start), unneeded)
        for start, stop in blocks(chunk, self.length, STRETCH):
            found.append(np.empty((1, models, 2)))
            sparsified_norms(raw, codes, keeps, (start - low, stop - low, start), found[-1][0])
        return np.concatenate(found)

    @property
    def _draws(self) -> bool:
        """Whether models keep parts at random, by rank only in rows that are short enough to be marked as a block."""
        is_random = any(isinstance(keep, KeepAtRandom | KeepByRank) for keep in self.keeps)
        return is_random and not self._searches and self._row <= STRETCH

    @property
    def _at_random(self) -> RowMarks:
        from dovetail.engine.methods.row_marks import RowMarks  # of random parts alone

        return RowMarks(self.keeps, self.codes, self.length, self._row, self._block, by_tile=self._fused)

    @property
    def _fused(self) -> bool:
        """Whether the fused kernels serve the models: they cannot rank by rows."""
        return not any(isinstance(keep, KeepByRank) for keep in self.keeps)

    def _mark_short(self, chunk: Chunk, state: Found, begin: BeginSum, out: Bytes) -> StretchSum:
        """Mark, and add up, stretch by stretch."""
        vectors, markers, size = self._begin(chunk, state)
        merged = begin(vectors.nonfinite, size)
        for start, stop in stretches(chunk.start, chunk.stop, self._block):
            merged.begin(stop - start)
            for model, tau, mask in self._mark(vectors, markers, start, stop):
                merged.add(model, tau, mask)
            merged.finish(vectors.base(start, stop), out, self.out_code, start - chunk.start)
        return merged

    def _mark_long(self, chunk: Chunk, state: Found, begin: BeginSum, out: Bytes) -> StretchSum:
        """Mark a long row for every model, and then add the models up, stretch by stretch."""
        vectors, markers, size = self._begin(chunk, state)
        masks = np.empty((len(self.keeps), size), np.uint8)
        merged = begin(vectors.nonfinite, STRETCH)
        for first, last in stretches(chunk.start, chunk.stop, self._row):
            for model, _, mask in self._mark(vectors, markers, first, last, counted=False):
                masks[model, : last - first] = mask
            for start, stop in stretches(first, last, STRETCH):
                merged.begin(stop - start)
                vectors.begin(start, stop, (start, stop))
                for model in range(len(self.keeps)):
                    tau = vectors.tau(model, start, stop)
                    merged.add(model, tau, masks[model, start - first : stop - first])
                merged.finish(vectors.base(start, stop), out, self.out_code, start - chunk.start)
        return merged
