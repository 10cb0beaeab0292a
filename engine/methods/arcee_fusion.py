"""Arcee Fusion: take the other model's most important changes, by a threshold that adapts to each tensor.

The importance of a change is its magnitude times the divergence between the softmax of its row in the two models. A
change is taken if its importance is at least the median of the tensor plus 1.5 times the interquartile range.

mergekit estimates the quantiles of tensors beyond a million elements from a sample; here they are exact. mergekit also
computes divergences in float32, which gives mostly rounding noise for rows that hardly differ; here they are computed
in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.divergence import add_divergence, add_exponentials, importance, largest, row_divergences
from dovetail.engine.kernels.magnitude import NO_THRESHOLD
from dovetail.engine.kernels.strongest import mark_strongest
from dovetail.engine.methods.decoding import STRETCH, ElementRange, Floats, Marks, Values, block_count, stretches
from dovetail.engine.methods.masked import StretchSum
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.parameters import task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, Problem
from dovetail.engine.methods.selection import PASSES, Search
from dovetail.engine.methods.threshold import Rules

_QUARTILES = 3


@dataclass(frozen=True, slots=True)
class Found:
    """What the reduce passes have found."""

    divergences: NDArray[np.float32]
    """The divergence of every row."""
    rules: Rules = ()
    """One rule for each quartile; its threshold is the quartile, or the digits of it that are found."""
    threshold: float = np.nan
    """Least importance that is taken."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Program of a tensor: W0 + tau where tau is important, else W0."""

    length: int
    """Elements of the tensor."""
    row_length: int
    """Elements of a row, the last dimension."""
    codes: tuple[int, ...]
    """Dtype codes of the tensors of the base model and of the other model."""
    out_code: int
    """Dtype code of the output."""
    sampled: bool = True
    """Whether a sample may show where the quartiles are."""

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: one for the divergences of the rows, and those of a search for the quartiles."""
        return 1 + PASSES

    def partial_bytes(self, elements: int) -> int:
        """What a search takes, or a number for each row of a chunk."""
        return max(self._search.partial_bytes(elements), 4 * block_count(elements, self.row_length))

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """What a search takes, and every row's divergence, which stays as part of the state."""
        return self._search.accumulator_bytes(chunks) + 8 * chunks * block_count(elements, self.row_length)

    @property
    def _search(self) -> Search:
        return Search(self.length, _QUARTILES, self.sampled, exactly=True)

    def reads(self, step: int, state: Found | None) -> Sequence[ElementRange] | None:
        """Everything for the divergences; then what a search reads."""
        return None if state is None else self._search.reads(step - 1, (state.rules,))

    @property
    def readings(self) -> tuple[int, int]:
        """One for the divergences, and those of a search."""
        passes, sampled = self._search.readings
        return 1 + passes, sampled

    def frugal(self) -> Fusion:
        """Search without a sample."""
        return replace(self, sampled=False) if self._search.samples else self

    @property
    def _block(self) -> int:
        """Elements that are decoded at a time: whole rows, or a part of a long one."""
        return max(1, STRETCH // self.row_length) * self.row_length if self.row_length <= STRETCH else STRETCH

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to the end of the last row that begins in it."""
        return start, min(self.length, -(-stop // self.row_length) * self.row_length)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes for the sources, sums and masks of a stretch, and for float64 copies of it, or of a short row."""
        size = min(elements, STRETCH)
        searching = self._search.scratch_bytes(size)
        return Values.scratch_bytes(2, size) + 24 * size + 24 * min(self.row_length, STRETCH) + searching

    def reduce(self, step: int, chunk: Chunk, state: Found | None) -> Any:
        """Compute the divergences of the rows that begin in a chunk, or count importances for the search."""
        if state is None:
            return self._divergences(chunk)
        values, scores = Values(chunk, self.codes, min(STRETCH, self.length)), np.empty(STRETCH, np.float32)
        counter = self._search.counter(step - 1, state.rules, np.empty(STRETCH, np.uint32))
        if ranges := self.reads(step, state):
            return self._sample(values, ranges, counter, state.divergences)
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            _, taus = values.load_task_vectors(start, stop, (start, stop))
            importance(taus[0], start, self.row_length, state.divergences, scores[: stop - start])
            counter.add(scores[: stop - start])
        return counter.counts

    def _sample(
        self, values: Values, ranges: Sequence[ElementRange], counter: Any, divergences: NDArray[np.float32]
    ) -> Any:
        """Compute the importances of ranges of elements, which the chunk holds one after another."""
        place, scores = 0, np.empty(STRETCH, np.float32)
        for start, stop in ranges:
            size = stop - start
            _, taus = values.load_task_vectors(place, place + size, (place, place + size))
            importance(taus[0], start, self.row_length, divergences, scores[:size])
            counter.add(scores[:size])
            place += size
        return counter.counts

    def begin(self, step: int, state: Found | None) -> Any:
        """Begin to gather divergences, or to add up what is counted."""
        return [] if state is None else self._search.begin(step - 1)

    def fold(self, step: int, accumulator: Any, partial: Any) -> Any:
        """Keep a chunk's divergences, or add what is counted in it."""
        if step > 0:
            return self._search.fold(step - 1, accumulator, partial)
        accumulator.append(partial)
        return accumulator

    def finish(self, step: int, accumulator: Any, state: Found | None) -> Found:
        """Join the divergences, then find more of the quartiles, then the threshold."""
        if state is None:
            return Found(np.concatenate(accumulator))
        # Index i of the ascending order is rank length - i of the descending one.
        ranks = [self.length - (self.length - 1) * quarter // 4 for quarter in (1, 2, 3)]
        rules = self._search.finish(step - 1, accumulator, ranks, state.rules)
        if not all(rule.final for rule in rules) and step < PASSES:
            return Found(state.divergences, rules)
        bits = [0 if rule.threshold == NO_THRESHOLD else rule.threshold for rule in rules]
        low, median, high = np.array(bits, np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            threshold = median + np.float32(1.5) * (high - low)
        return Found(state.divergences, rules, float(threshold))

    def _divergences(self, chunk: Chunk) -> NDArray[np.float32]:
        row, block = self.row_length, self._block
        first = -(-chunk.start // row) * row
        last = min(self.length, -(-chunk.stop // row) * row)
        values, scratch = Values(chunk, self.codes, min(self.length, block)), np.empty((3, min(row, STRETCH)))
        if row > STRETCH:
            rows = [self._long_divergence(values, start, scratch) for start in range(first, last, row)]
            return np.array(rows, np.float32)
        found = [np.empty(0, np.float32)]
        for start, stop in stretches(first, last, block):
            base, tuned = values.load(start, stop, (start, stop))
            found.append(np.empty((stop - start) // row, np.float32))
            row_divergences(tuned, base, row, scratch, found[-1])
        return np.concatenate(found)

    def _long_divergence(self, values: Values, first: int, scratch: NDArray[np.float64]) -> np.float32:
        """Compute what `row_divergences` does of one row that is longer than a stretch, decoding it three times."""
        cuts = list(stretches(first, first + self.row_length, STRETCH))

        def parts() -> Iterator[tuple[Floats, Floats]]:
            for start, stop in cuts:
                base, tuned = values.load(start, stop, (start, stop))
                yield tuned, base

        tuned, base = next(parts())
        tops = [tuned[0], base[0]]
        for part in parts():
            tops = [np.float32(largest(line, top)) for line, top in zip(part, tops, strict=True)]
        wholes = [0.0, 0.0]
        for part in parts():
            for place, line in enumerate(part):
                wholes[place] = add_exponentials(line, tops[place], scratch[0], wholes[place])
        total = 0.0
        for tuned, base in parts():
            total = add_divergence(tuned, base, (tops[0], tops[1]), (wholes[0], wholes[1]), scratch, total)
        return np.float32(max(total, 0.0))

    def apply(self, chunk: Chunk, state: Found, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, stretch by stretch."""
        size = min(STRETCH, self.length)
        values, scores, mask = Values(chunk, self.codes, size), np.empty(size, np.float32), np.empty(size, np.uint8)
        merged = _Sum(values.nonfinite, 1, size)
        # At least the threshold means above the float32 number just below it. Changes of zero are never taken.
        below = int(np.float32(state.threshold).view(np.uint32)) - 1 if state.threshold > 0 else 0
        if np.isnan(state.threshold):
            below = NO_THRESHOLD
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            base, taus = values.load_task_vectors(start, stop, (start, stop))
            marks = mask[: stop - start]
            if state.threshold != 0:
                importance(taus[0], start, self.row_length, state.divergences, scores[: stop - start])
                mark_strongest(scores[: stop - start], below, 0, 0, marks)
            else:
                mark_strongest(taus[0], 0, 0, 0, marks)
            merged.begin(stop - start)
            merged.add(0, taus[0], marks)
            merged.finish(base, out, self.out_code, start - chunk.start)
        return merged.statistics


class _Sum(StretchSum):
    """The sum of a single model: its kept changes."""

    def _add(self, model: int, tau: Floats, mask: Marks) -> None:
        self._delta[: self._size] = self._kept[: self._size]


def make_program(problem: Problem) -> Fusion:
    """Make the program of one tensor."""
    row_length = max(1, problem.shape[-1] if problem.shape else 1)
    return Fusion(problem.length, row_length, task_vector_codes(problem), problem.out_code)


ARCEE_FUSION = Method(
    name="arcee_fusion",
    summary="Take over the other model's most important changes and leave the rest of the base alone: "
    "use it to add one fine-tune's skill to a model with nothing to tune.",
    paper="https://github.com/arcee-ai/mergekit",
    base="pair",
    parameters=(),
    program=make_program,
    by_name=False,
    min_models=1,
    max_models=1,
)
"""The row of the table of methods."""
