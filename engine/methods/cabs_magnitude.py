"""CABS without balance (``balanced: false``): magnitude pruning over the whole tensor, exact and out of core.

Each model keeps its k = (length * n) // m strongest candidates, ordered by claims, magnitude and index. Three reduce
passes find the rule of a model (see `dovetail.engine.kernels.magnitude`). With conflict awareness, the candidates of a
model depend on what the models before it keep: models are searched one after another, and the masks of the models
before are made again from their rules. Without it, all models are searched in the same three passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.general import IGNORE, MINIMIZE
from dovetail.engine.kernels.magnitude import DIGIT_BINS, claim_strongest, count_digits
from dovetail.engine.kernels.task_vectors import keep_masked
from dovetail.engine.methods.cabs_sum import AddsMasked
from dovetail.engine.methods.decoding import STRETCH, ElementRange, Floats, Marks, TaskVectors, stretches
from dovetail.engine.methods.masked import BeginSum, StretchSum
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics
from dovetail.engine.methods.selection import PASSES, SAMPLE, Search, is_fine
from dovetail.engine.methods.threshold import (
    DIGITS,
    KEEP_NONE,
    Rule,
    Rules,
    Tally,
    finish,
    first_digit,
    next_digit,
    tally_bytes,
)

Counts = tuple[NDArray[np.uint32], ...]
"""Histograms of one chunk, one for each searched model; empty for a model with a rule that is known already."""


@dataclass(frozen=True, slots=True)
class MagnitudeCabs(AddsMasked):
    """Program of CABS with one block, the whole tensor."""

    length: int
    """Elements of the tensor."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    n: tuple[int, ...]
    """Numerators of the models' densities."""
    m: tuple[int, ...]
    """Denominators of the models' densities."""
    weights: tuple[float, ...]
    """The models' weights."""
    mode: int
    """What claims of earlier models mean: IGNORE, FORBID or MINIMIZE."""
    ties: bool
    """Whether elements kept by several models are merged by sign election instead of a sum."""
    sampled: bool = True
    """Whether a sample may show where the wanted ranks are."""

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: those of a search for each model, or of one in all if every model prunes alone."""
        return self._passes * (1 if self.mode == IGNORE else len(self.n))

    @property
    def _passes(self) -> int:
        """Passes of a search. Where claims decide before magnitudes do, they are those that count digits."""
        return DIGITS if self.mode == MINIMIZE else PASSES

    @property
    def _search(self) -> Search:
        rules = len(self.n) if self.mode == IGNORE else 1
        return Search(self.length, rules, self.sampled and self.mode != MINIMIZE, fine=is_fine(self.codes))

    def reads(self, step: int, state: Rules | None) -> Sequence[ElementRange] | None:
        """What the search reads that is at work."""
        if self.mode == MINIMIZE:
            return None
        rules = [(state or ())[model : model + 1] for model in self._searched(step)]
        return self._search.reads(step % PASSES, rules)

    @property
    def readings(self) -> tuple[int, int]:
        """Those of as many searches as follow each other."""
        passes, sampled = self._search.readings
        searches = self.reduce_passes // self._passes
        return passes * searches, sampled * searches

    def frugal(self) -> MagnitudeCabs:
        """Search without a sample."""
        return replace(self, sampled=False) if self._search.samples else self

    def partial_bytes(self, elements: int) -> int:
        """What a search takes, or one histogram of 32-bit counts for each number of claims."""
        return max(self._search.partial_bytes(elements), 4 * DIGIT_BINS[0] * len(self.n))

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """What a search takes, or a tally for each claim level, and the rules."""
        return self._search.accumulator_bytes(chunks) + tally_bytes(len(self.n), chunks)

    def window(self, start: int, stop: int) -> ElementRange:
        """Need only the chunk itself."""
        return start, stop

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory for a window of `elements`."""
        size, models = min(elements, STRETCH), len(self.n)
        merge = self.summing_bytes(size)
        # Histograms are of 64 bits while they are counted, and of 32 bits afterwards.
        searching = self._search.scratch_bytes(size) + 5 * size
        return TaskVectors.scratch_bytes(size) + merge + 3 * size + 12 * DIGIT_BINS[0] * models + searching

    def marking_bytes(self, elements: int) -> int:
        """Bytes of working memory of `mark` for a window of `elements`."""
        return self.scratch_bytes(elements)

    def _searched(self, step: int) -> range:
        """Give the models with the rules that pass `step` searches for."""
        first = step // self._passes
        return range(len(self.n)) if self.mode == IGNORE else range(first, first + 1)

    def _kept(self, model: int) -> int:
        """Compute how many elements a model may keep."""
        return self.length * self.n[model] // self.m[model]

    def reduce(self, step: int, chunk: Chunk, state: Rules | None) -> tuple[Any, ...]:
        """Count the magnitudes of a chunk's candidates."""
        rules = state or ()
        return self._count_levels(step, chunk, rules) if self.mode == MINIMIZE else self._count(step, chunk, rules)

    def _count(self, step: int, chunk: Chunk, rules: Rules) -> tuple[Any, ...]:
        """Count for the search, in which what an earlier model claims is as good as zero."""
        sampling, room = step % PASSES == SAMPLE, np.empty(STRETCH, np.uint32)
        searched = self._searched(step)
        counters = {model: self._search.counter(step % PASSES, rules[model : model + 1], room) for model in searched}
        work = _Stretches(self, chunk)
        free = np.empty(work.size, np.float32)
        for start, stop in work:
            for model in range(searched[-1] + 1):
                if model not in counters:
                    work.claim(model, rules[model], start, stop, sampling=sampling)
                    continue
                tau = work.vectors.tau(model, start, stop)
                if self.mode != IGNORE and model > 0:
                    keep_masked(tau, (work.claims[: stop - start] == 0).view(np.uint8), free[: stop - start])
                    tau = free[: stop - start]
                counters[model].add(tau)
        return tuple(counters[model].counts for model in searched)

    def _count_levels(self, step: int, chunk: Chunk, rules: Rules) -> Counts:
        """Count one digit, by the number of claims at the first of them."""
        digit = step % DIGITS
        searched = [
            model for model in self._searched(step) if (self._kept(model) > 0 if digit == 0 else not rules[model].final)
        ]
        counts = {
            model: np.zeros((model + 1 if digit == 0 and self.mode == MINIMIZE else 1, DIGIT_BINS[digit]), np.int64)
            for model in searched
        }
        if searched:
            work = _Stretches(self, chunk)
            for start, stop in work:
                for model in range(searched[-1] + 1):
                    if model not in counts:
                        if self.mode != IGNORE:
                            work.claim(model, rules[model], start, stop)
                        continue
                    rule = rules[model] if digit else KEEP_NONE
                    tau = work.vectors.tau(model, start, stop)
                    claims = work.claims[: stop - start]
                    count_digits(tau, self.mode, claims, digit, rule.level, rule.threshold, counts[model])
        return tuple(
            counts[model].astype(np.uint32) if model in counts else np.zeros((1, 0), np.uint32)
            for model in self._searched(step)
        )

    def begin(self, step: int, state: Rules | None) -> Any:
        """Begin to add up what is counted."""
        if self.mode == MINIMIZE:
            return Tally(step % DIGITS)
        return [self._search.begin(step % PASSES) for _ in self._searched(step)]

    def fold(self, step: int, accumulator: Any, partial: tuple[Any, ...]) -> Any:
        """Add what is counted in a chunk."""
        if self.mode == MINIMIZE:
            return accumulator.add(partial)
        return [self._search.fold(step % PASSES, *pair) for pair in zip(accumulator, partial, strict=True)]

    def finish(self, step: int, accumulator: Any, state: Rules | None) -> Rules:
        """Find more of each searched model's rule."""
        rules = state or ()
        if self.mode == MINIMIZE:
            return self._finish_levels(step, accumulator, rules)
        searched = self._searched(step)
        found = [
            self._search.finish(step % PASSES, part, (self._kept(model),), rules[model : model + 1])
            for model, part in zip(searched, accumulator, strict=True)
        ]
        return (*rules[: searched[0]], *(rule for each in found for rule in each))

    def _finish_levels(self, step: int, accumulator: Tally, before: Rules) -> Rules:
        """Follow a model's rule one digit further."""
        rules = list(before)
        for place, model in enumerate(self._searched(step)):
            counts = accumulator.totals[place]
            if step % DIGITS == 0:
                rules.append(first_digit(counts, self._kept(model)))
            elif not rules[model].final:
                rules[model] = next_digit(rules[model], counts)
                if step % DIGITS == DIGITS - 1:
                    rules[model] = finish(rules[model], [each[place] for each in accumulator.chunks])
        return tuple(rules)

    def apply(self, chunk: Chunk, state: Rules, out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        return self.mark(chunk, state, self.begin_sum, out).statistics

    def mark(self, chunk: Chunk, state: Rules, begin: BeginSum, out: Bytes) -> StretchSum:
        """Go through a chunk stretch by stretch, and hand a sum what each model keeps; see `marking.Marking`."""
        work = _Stretches(self, chunk)
        merged = begin(work.vectors.nonfinite, work.size)
        for start, stop in work:
            merged.begin(stop - start)
            for model, rule in enumerate(state):
                tau, mask = work.claim(model, rule, start, stop)
                merged.add(model, tau, mask)
            merged.finish(work.vectors.base(start, stop), out, self.out_code, start - chunk.start)
        return merged


class _Stretches:
    """One chunk, stretch by stretch, with the claims made so far in the stretch."""

    def __init__(self, program: MagnitudeCabs, chunk: Chunk) -> None:
        self.size = min(STRETCH, chunk.stop - chunk.start)
        self.vectors = TaskVectors(chunk, program.codes, self.size)
        self.claims = np.empty(self.size, np.uint16)
        self._program, self._chunk = program, chunk
        self._mask = np.empty(self.size, np.uint8)
        self._seen = [0] * len(program.n)

    def __iter__(self) -> Iterator[ElementRange]:
        for start, stop in stretches(self._chunk.start, self._chunk.stop, STRETCH):
            self.vectors.begin(start, stop, (start, stop))
            self.claims[: stop - start] = 0
            yield start, stop

    def claim(self, model: int, rule: Rule, start: int, stop: int, *, sampling: bool = False) -> tuple[Floats, Marks]:
        """Give a model's task vector and the mask that its rule makes; called once for each stretch, in order.

        A run of a sample does not know how many ties come before it, and takes its share of those that are kept.
        """
        tau, mask = self.vectors.tau(model, start, stop), self._mask[: stop - start]
        before = rule.before[self._chunk.index] if rule.before and not sampling else 0
        ties = round(rule.ties * (stop - start) / self._program.length) if sampling else rule.ties
        seen = claim_strongest(
            tau,
            self._program.mode,
            self.claims[: stop - start],
            (rule.level, rule.threshold, ties),
            0 if sampling else before + self._seen[model],
            mask,
        )
        self._seen[model] = seen - before
        return tau, mask
