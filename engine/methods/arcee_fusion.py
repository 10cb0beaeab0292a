"""Arcee Fusion: take over the other model's most important changes, with a threshold that adapts to each tensor.

Importance is the magnitude of a change times the divergence of the two models' softmax over its row; changes of at
least the median plus 1.5 times the interquartile range of a tensor's importances are taken. mergekit estimates the
quantiles of tensors beyond a million elements from a sample; here they are exact. It also computes divergences in
float32, which for rows that hardly differ is mostly rounding noise; here they are float64 rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.divergence import importance, row_divergences
from dovetail.engine.kernels.magnitude import NO_THRESHOLD
from dovetail.engine.kernels.strongest import mark_strongest
from dovetail.engine.methods.decoding import PIECE, ElementRange, Floats, Marks, Values, pieces
from dovetail.engine.methods.masked import PieceSum
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.parameters import task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, Problem
from dovetail.engine.methods.threshold import DIGITS, DigitCounter, Rules, count_partial_bytes, follow_exactly

_QUARTILES = 3


@dataclass(frozen=True, slots=True)
class Found:
    """What the reduce passes have found."""

    divergences: NDArray[np.float32]
    """The divergence of every row."""
    rules: Rules = ()
    """Rules whose thresholds are the quartiles, as far as known."""
    threshold: float = np.nan
    """Least importance that is taken."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """W0 + tau where tau is important."""

    length: int
    """Elements of the tensor."""
    row_length: int
    """Elements of a row, the last dimension."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the other's."""
    out_code: int
    """Dtype code of the output."""

    @property
    def reduce_passes(self) -> int:
        """One for the rows' divergences, three for the quartiles."""
        return 1 + DIGITS

    def partial_bytes(self, elements: int) -> int:
        """Histograms, or a number for each row of a chunk."""
        # Every row's divergence stays, as part of the state.
        return count_partial_bytes(_QUARTILES) + 8 * (elements // self.row_length + 1)

    @property
    def _block(self) -> int:
        return max(1, PIECE // self.row_length) * self.row_length

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to the end of the last row that begins in it."""
        return start, min(self.length, -(-stop // self.row_length) * self.row_length)

    def scratch_bytes(self, elements: int) -> int:
        """Working memory: sources, sums and masks of a piece, float64 copies of a row."""
        size = min(elements, max(PIECE, self._block))
        return Values.scratch_bytes(2, size) + 24 * size + 24 * self.row_length

    def reduce(self, step: int, chunk: Chunk, state: Found | None) -> Any:
        """Compute the divergences of the rows that begin in a chunk, or count a digit of its importances."""
        if state is None:
            return self._divergences(chunk)
        values, scores = Values(chunk, self.codes, min(PIECE, self.length)), np.empty(PIECE, np.float32)
        counter = DigitCounter(step - 1, state.rules)
        for start, stop in pieces(chunk.start, chunk.stop, PIECE):
            _, taus = values.load_task_vectors(start, stop, (start, stop))
            importance(taus[0], start, self.row_length, state.divergences, scores[: stop - start])
            counter.add(scores[: stop - start])
        return counter.counts

    def combine(self, step: int, partials: Sequence[Any], state: Found | None) -> Found:
        """Gather the divergences, then find the next digit of the quartiles, then the threshold."""
        if state is None:
            return Found(np.concatenate(partials))
        # Index i of the ascending order is rank length - i of the descending one.
        ranks = [self.length - (self.length - 1) * quarter // 4 for quarter in (1, 2, 3)]
        rules = follow_exactly(step - 1, partials, ranks, state.rules)
        if step < DIGITS:
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
        values, scratch = Values(chunk, self.codes, min(self.length, block)), np.empty((3, row))
        found = [np.empty(0, np.float32)]
        for start, stop in pieces(first, last, block):
            base, tuned = values.load(start, stop, (start, stop))
            found.append(np.empty((stop - start) // row, np.float32))
            row_divergences(tuned, base, row, scratch, found[-1])
        return np.concatenate(found)

    def apply(self, chunk: Chunk, state: Found, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, piece by piece."""
        size = min(PIECE, self.length)
        values, scores, mask = Values(chunk, self.codes, size), np.empty(size, np.float32), np.empty(size, np.uint8)
        merged = _Sum(values.nonfinite, 1, size)
        # Above the number before the threshold is at least the threshold; a zero never matters.
        below = int(np.float32(state.threshold).view(np.uint32)) - 1 if state.threshold > 0 else 0
        if np.isnan(state.threshold):
            below = NO_THRESHOLD
        for start, stop in pieces(chunk.start, chunk.stop, PIECE):
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


class _Sum(PieceSum):
    """The change of the one model where it is taken."""

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
