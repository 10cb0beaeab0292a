"""CABS without balance (``balanced: false``): magnitude pruning over the whole tensor, exact and out of core.

Each model keeps its k = (length * n) // m strongest candidates, ordered by claims, magnitude and index. Three reduce
passes find the rule of a model (see `dovetail.engine.kernels.magnitude`). With conflict awareness, the candidates of a
model depend on what the models before it keep: models are searched one after another, and the masks of the models
before are made again from their rules. Without it, all models are searched in the same three passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.general import IGNORE, MINIMIZE
from dovetail.engine.kernels.magnitude import DIGIT_BINS, claim_strongest, count_digits
from dovetail.engine.methods.cabs_sum import AddsMasked
from dovetail.engine.methods.decoding import STRETCH, ElementRange, Floats, Marks, TaskVectors, stretches
from dovetail.engine.methods.masked import BeginSum, StretchSum
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics
from dovetail.engine.methods.threshold import (
    KEEP_NONE,
    Rule,
    Rules,
    Tally,
    finish,
    first_digit,
    next_digit,
    tally_bytes,
)

_DIGITS = len(DIGIT_BINS)

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

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: three for each model, or three in all if every model prunes alone."""
        return _DIGITS * (1 if self.mode == IGNORE else len(self.n))

    def partial_bytes(self, elements: int) -> int:
        """Bytes of one histogram of 32-bit counts for each number of claims or each model."""
        return 4 * DIGIT_BINS[0] * len(self.n)

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """A tally for each claim level or model, and the rules."""
        return tally_bytes(len(self.n), chunks)

    def window(self, start: int, stop: int) -> ElementRange:
        """Need only the chunk itself."""
        return start, stop

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory for a window of `elements`."""
        size, models = min(elements, STRETCH), len(self.n)
        merge = self.summing_bytes(size)
        # Histograms are of 64 bits while they are counted, and of 32 bits afterwards.
        return TaskVectors.scratch_bytes(size) + merge + 3 * size + 12 * DIGIT_BINS[0] * models

    def marking_bytes(self, elements: int) -> int:
        """Bytes of working memory of `mark` for a window of `elements`."""
        return self.scratch_bytes(elements)

    def _searched(self, step: int) -> range:
        """Give the models with the rules that pass `step` searches for."""
        return range(len(self.n)) if self.mode == IGNORE else range(step // _DIGITS, step // _DIGITS + 1)

    def _kept(self, model: int) -> int:
        """Compute how many elements a model may keep."""
        return self.length * self.n[model] // self.m[model]

    def reduce(self, step: int, chunk: Chunk, state: Rules | None) -> Counts:
        """Count one digit of the magnitudes of a chunk's candidates."""
        rules, digit = state or (), step % _DIGITS
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

    def begin(self, step: int, state: Rules | None) -> Tally:
        """Begin to add up histograms."""
        return Tally(step % _DIGITS)

    def fold(self, step: int, accumulator: Tally, partial: Counts) -> Tally:
        """Add a chunk's histograms."""
        return accumulator.add(partial)

    def finish(self, step: int, accumulator: Tally, state: Rules | None) -> Rules:
        """Follow each searched model's rule one digit further."""
        rules = list(state or ())
        for place, model in enumerate(self._searched(step)):
            counts = accumulator.totals[place]
            if step % _DIGITS == 0:
                rules.append(first_digit(counts, self._kept(model)))
            elif not rules[model].final:
                rules[model] = next_digit(rules[model], counts)
                if step % _DIGITS == _DIGITS - 1:
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

    def claim(self, model: int, rule: Rule, start: int, stop: int) -> tuple[Floats, Marks]:
        """Give a model's task vector and the mask that its rule makes; called once for each stretch, in order."""
        tau, mask = self.vectors.tau(model, start, stop), self._mask[: stop - start]
        before = rule.before[self._chunk.index] if rule.before else 0
        seen = claim_strongest(
            tau,
            self._program.mode,
            self.claims[: stop - start],
            (rule.level, rule.threshold, rule.ties),
            before + self._seen[model],
            mask,
        )
        self._seen[model] = seen - before
        return tau, mask
