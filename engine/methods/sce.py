"""SCE: select by variance, calculate weights, erase minorities, https://arxiv.org/abs/2408.07990.

The method selects the elements of a tensor that vary most among the task vectors. The weight of a model is its share of
the sum of squares of the selected changes. At every element, only changes of the elected sign are averaged. As in
mergekit, signs are elected by the unweighted sum, weights that add up to less than 1e-6 are replaced by equal ones, and
a divisor is at least 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.election import add_weighted_votes, elect_signs
from dovetail.engine.kernels.pointwise import variance
from dovetail.engine.kernels.statistics import mark_nonzero
from dovetail.engine.kernels.strongest import mark_strongest
from dovetail.engine.kernels.sums import sum_squares
from dovetail.engine.kernels.task_vectors import keep_masked
from dovetail.engine.methods.decoding import STRETCH, ElementRange, Floats, Marks, Values, block_count, stretches
from dovetail.engine.methods.masked import StretchSum
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.methods.parameters import LARGEST, merge_number, task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, Problem
from dovetail.engine.methods.selection import PASSES, Search
from dovetail.engine.methods.task_vector_parameters import INT8_MASK
from dovetail.engine.methods.threshold import KEEP_ALL, Rule

LEAST_WEIGHTS = 1e-6
"""Weights that add up to less than this are replaced by equal ones, and a smaller divisor is replaced by this."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the reduce passes have found."""

    rules: tuple[Rule, ...] = ()
    """The rule that selects elements by their variances; none before anything is known of it."""
    weights: tuple[float, ...] = ()
    """The models' weights."""


@dataclass(frozen=True, slots=True)
class SelectCalculateErase:
    """Program of a tensor: W0, plus sum(w_j tau_j) / sum(w_j) over the models of the elected sign where selected."""

    length: int
    """Elements of the tensor."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    part: float
    """Which part of the elements with a variance above 0 is selected; 1 selects all elements."""
    sampled: bool = True
    """Whether a sample may show where the wanted rank is."""

    @property
    def _models(self) -> int:
        return len(self.codes) - 1

    @property
    def _searches(self) -> bool:
        return self.part < 1.0

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: those of a search for the rule, if it is needed, and one to sum squares."""
        return PASSES * self._searches + 1

    def partial_bytes(self, elements: int) -> int:
        """What a search takes, or the sums of a chunk's blocks."""
        return max(self._search.partial_bytes(elements), self._sums_bytes(elements))

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """What a search takes, and the sums of all chunks' blocks, kept one by one and joined."""
        return self._search.accumulator_bytes(chunks) + 2 * chunks * self._sums_bytes(elements)

    @property
    def _search(self) -> Search:
        return Search(self.length, 1, self.sampled and self._searches)

    def reads(self, step: int, state: Found | None) -> Sequence[ElementRange] | None:
        """What a search reads in its passes; everything where squares are summed."""
        if not self._searches or step >= PASSES:
            return None
        return self._search.reads(step, (state.rules,) if state else ())

    @property
    def readings(self) -> tuple[int, int]:
        """Those of a search, and one where squares are summed."""
        passes, sampled = self._search.readings if self._searches else (0, 0)
        return passes + 1, sampled

    def frugal(self) -> SelectCalculateErase:
        """Search without a sample."""
        return replace(self, sampled=False) if self._search.samples else self

    def _sums_bytes(self, elements: int) -> int:
        """Give the bytes of the sums of the blocks that begin in a chunk."""
        return 8 * self._models * block_count(elements, STRETCH)

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to the end of the last block that begins in it."""
        return start, min(self.length, -(-stop // STRETCH) * STRETCH)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of the sources, variances, masks and sums of a stretch."""
        size = min(elements, STRETCH)
        searching = self._search.scratch_bytes(size) if self._searches else 0
        return Values.scratch_bytes(len(self.codes), size) + size * (4 + 2 + self._models + 8 + 20) + searching

    def reduce(self, step: int, chunk: Chunk, state: Found | None) -> Any:
        """Count a chunk's variances for the search or, in the last pass, sum the squares of its selected changes."""
        state = state or Found()
        if self._searches and step < PASSES:
            values, spread = Values(chunk, self.codes, min(STRETCH, self.length)), np.empty(STRETCH, np.float32)
            counter = self._search.counter(step, state.rules, np.empty(STRETCH, np.uint32))
            for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
                _, taus = values.load_task_vectors(start, stop, (start, stop))
                variance(taus, spread[: stop - start])
                counter.add(spread[: stop - start])
            return counter.counts
        return self._squares(chunk, state)

    def begin(self, step: int, state: Found | None) -> Any:
        """Begin to add up what is counted, or to gather sums."""
        return self._search.begin(step) if self._searches and step < PASSES else []

    def fold(self, step: int, accumulator: Any, partial: Any) -> Any:
        """Add what is counted in a chunk, or keep its sums: they are rounded when all are there."""
        if self._searches and step < PASSES:
            return self._search.fold(step, accumulator, partial)
        accumulator.append(partial)
        return accumulator

    def finish(self, step: int, accumulator: Any, state: Found | None) -> Found:
        """Find more of the least selected variance, then the weights."""
        state = state or Found()
        if self._searches and step < PASSES:
            return Found(self._search.finish(step, accumulator, self._rank, state.rules))
        sums = np.concatenate(accumulator)
        means = [_mean(sums[:, model], self.length) for model in range(self._models)]
        whole = sum(means)
        if abs(whole) < LEAST_WEIGHTS:
            return Found(state.rules, (1.0 / self._models,) * self._models)
        return Found(state.rules, tuple(mean / whole for mean in means))

    def _rank(self, nonzero: int) -> tuple[int]:
        """Give the rank of the least selected variance by how many are not zero."""
        return (int(nonzero * self.part),)

    def _squares(self, chunk: Chunk, state: Found) -> NDArray[np.float64]:
        """Sum the squares of each model's selected changes over the blocks that begin in a chunk.

        Returns
        -------
        float64[blocks, models]
            The sums.

        """
        first = -(-chunk.start // STRETCH) * STRETCH
        last = min(self.length, -(-chunk.stop // STRETCH) * STRETCH)
        values, kept = Values(chunk, self.codes, min(STRETCH, self.length)), np.empty(STRETCH, np.float32)
        found = []
        for start, _, _, taus, mask in self._select(chunk, state, values, last if first < last else chunk.start):
            sums = np.zeros(self._models)
            for model, tau in enumerate(taus):
                keep_masked(tau, mask, kept[: len(tau)])
                sums[model] = sum_squares(kept[: len(tau)])
            if start >= first:  # before that, there is the end of a block that began in the chunk before
                found.append(sums)
        return np.array(found).reshape(-1, self._models)

    def _select(
        self, chunk: Chunk, state: Found, values: Values, last: int
    ) -> Iterator[tuple[int, int, Floats, Floats, Marks]]:
        """Go through a chunk up to element `last`: (start, stop, base, task vectors, mask of the selected elements)."""
        rule = state.rules[0] if state.rules else KEEP_ALL
        spread, mask = np.empty(STRETCH, np.float32), np.ones(STRETCH, np.uint8)
        seen = rule.before[chunk.index] if rule.before else 0
        for start, stop in stretches(chunk.start, last, STRETCH):
            base, taus = values.load_task_vectors(start, stop, (start, stop))
            if self._searches:
                variance(taus, spread[: stop - start])
                seen = mark_strongest(spread[: stop - start], rule.threshold, rule.ties, seen, mask[: stop - start])
            yield start, stop, base, taus, mask[: stop - start]

    def apply(self, chunk: Chunk, state: Found, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, stretch by stretch."""
        size = min(STRETCH, self.length)
        values, kept = Values(chunk, self.codes, size), np.empty(size, np.uint8)
        merged = _Sum(values.nonfinite, state.weights, size)
        for start, stop, base, taus, mask in self._select(chunk, state, values, chunk.stop):
            merged.begin(stop - start)
            for model, tau in enumerate(taus):
                marks = kept[: stop - start]
                mark_nonzero(tau, marks)
                marks &= mask
                merged.add(model, tau, marks)
            merged.finish(base, out, self.out_code, start - chunk.start)
        return merged.statistics


def _mean(squares: NDArray[np.float64], length: int) -> float:
    """Compute the mean of squares without intermediate rounding, so that the order does not matter."""
    return fsum(squares) / max(length, 1) if np.isfinite(squares).all() else float("nan")


class _Sum(StretchSum):
    """The weighted mean of the changes of the elected sign."""

    def __init__(self, nonfinite: NDArray[np.int64], weights: Sequence[float], size: int) -> None:
        super().__init__(nonfinite, len(weights), size)
        self._weights = np.array(weights, np.float32)
        self._sums = np.empty((5, size), np.float32)

    def begin(self, size: int) -> None:
        """Start a stretch of `size` elements."""
        super().begin(size)
        self._sums[:, :size] = 0

    def _add(self, model: int, tau: Floats, mask: Marks) -> None:
        add_weighted_votes(tau, mask, self._weights[model], self._sums)

    def _resolve(self, delta: Floats) -> None:
        elect_signs(self._sums, True, np.float32(LEAST_WEIGHTS), delta)


def make_program(problem: Problem) -> SelectCalculateErase:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        `select_topk` cannot be used.

    """
    part = min(1.0, merge_number(problem, "select_topk", 0.0, LARGEST))
    return SelectCalculateErase(problem.length, task_vector_codes(problem), problem.out_code, part)


SCE = Method(
    name="sce",
    summary="Select the changes in which models differ most, weigh models by the size of theirs, and drop minorities: "
    "use it to fuse models of one family without choosing weights.",
    paper="https://arxiv.org/abs/2408.07990",
    base="origin",
    parameters=(
        Parameter("select_topk", "float", 1.0, "part of the elements that is selected, by variance, from 0 to 1"),
        INT8_MASK,
    ),
    program=make_program,
    by_name=False,
)
"""The row of the table of methods."""
