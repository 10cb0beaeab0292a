"""CABS without balance (``balanced: false``): magnitude pruning over the whole tensor, exact and out of core.

Each model keeps its k = (length * n) // m strongest candidates in the order of claims, magnitude and index. Three
reduce passes find a model's rule (see `dovetail.engine.kernels.magnitude`). A model's candidates depend on what the
models before it keep, so with conflict-awareness models are searched one after another, and the earlier masks are
made again from their rules; without it all models share three passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.general import IGNORE, MINIMIZE
from dovetail.engine.kernels.magnitude import DIGIT_BINS, claim_strongest, count_digits
from dovetail.engine.methods.decoding import PIECE, ElementRange, Floats, Marks, TaskVectors, pieces
from dovetail.engine.methods.masked import MaskedSum
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics
from dovetail.engine.methods.threshold import KEEP_NONE, Rule, Rules, finish, first_digit, next_digit, total

_DIGITS = len(DIGIT_BINS)

Counts = tuple[NDArray[np.uint32], ...]
"""One chunk's histograms, one a searched model; empty where its rule is known already."""


@dataclass(frozen=True, slots=True)
class MagnitudeCabs:
    """CABS with one block: the whole tensor."""

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
        """Three a model, or three in all if every model prunes alone."""
        return _DIGITS * (1 if self.mode == IGNORE else len(self.n))

    def partial_bytes(self, elements: int) -> int:
        """One histogram of 32-bit counts for each claim level or model."""
        return 4 * DIGIT_BINS[0] * len(self.n)

    def window(self, start: int, stop: int) -> ElementRange:
        """Need just the chunk itself."""
        return start, stop

    def scratch_bytes(self, elements: int) -> int:
        """Working memory for a window of that many elements."""
        size, models = min(elements, PIECE), len(self.n)
        merge = MaskedSum.scratch_bytes(models, self.ties, size)
        # Histograms of 64 bits while counting and of 32 bits when done.
        return TaskVectors.scratch_bytes(size) + merge + 3 * size + 12 * DIGIT_BINS[0] * models

    def _searched(self, step: int) -> range:
        """Give the models whose rules pass `step` works on."""
        return range(len(self.n)) if self.mode == IGNORE else range(step // _DIGITS, step // _DIGITS + 1)

    def _kept(self, model: int) -> int:
        """Give the number of elements that a model may keep."""
        return self.length * self.n[model] // self.m[model]

    def reduce(self, step: int, chunk: Chunk, state: Rules | None) -> Counts:
        """Count one digit of the candidates' magnitudes."""
        rules, digit = state or (), step % _DIGITS
        searched = [
            model for model in self._searched(step) if (self._kept(model) > 0 if digit == 0 else not rules[model].final)
        ]
        counts = {
            model: np.zeros((model + 1 if digit == 0 and self.mode == MINIMIZE else 1, DIGIT_BINS[digit]), np.int64)
            for model in searched
        }
        if searched:
            work = _Pieces(self, chunk)
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

    def combine(self, step: int, partials: Sequence[Counts], state: Rules | None) -> Rules:
        """Add the histograms of all chunks and follow each searched model's rule one digit further."""
        rules = list(state or ())
        for place, model in enumerate(self._searched(step)):
            chunks = [partial[place] for partial in partials]
            counts = total(chunks)
            if step % _DIGITS == 0:
                rules.append(first_digit(counts, self._kept(model)))
            elif not rules[model].final:
                rules[model] = next_digit(rules[model], counts)
                if step % _DIGITS == _DIGITS - 1:
                    rules[model] = finish(rules[model], chunks)
        return tuple(rules)

    def apply(self, chunk: Chunk, state: Rules, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, piece by piece."""
        work = _Pieces(self, chunk)
        merged = MaskedSum(work.vectors, self.weights, self.ties, work.size)
        for start, stop in work:
            merged.begin(stop - start)
            for model, rule in enumerate(state):
                tau, mask = work.claim(model, rule, start, stop)
                merged.add(model, tau, mask)
            merged.finish(work.vectors.base(start, stop), out, self.out_code, start - chunk.start)
        return merged.statistics


class _Pieces:
    """One chunk, piece by piece, with the claims made so far in the piece."""

    def __init__(self, program: MagnitudeCabs, chunk: Chunk) -> None:
        self.size = min(PIECE, chunk.stop - chunk.start)
        self.vectors = TaskVectors(chunk, program.codes, self.size)
        self.claims = np.empty(self.size, np.uint16)
        self._program, self._chunk = program, chunk
        self._mask = np.empty(self.size, np.uint8)
        self._seen = [0] * len(program.n)

    def __iter__(self) -> Iterator[ElementRange]:
        for start, stop in pieces(self._chunk.start, self._chunk.stop, PIECE):
            self.vectors.begin(start, stop, (start, stop))
            self.claims[: stop - start] = 0
            yield start, stop

    def claim(self, model: int, rule: Rule, start: int, stop: int) -> tuple[Floats, Marks]:
        """Give a model's task vector and, by its rule, its mask; to be called once a piece, in order."""
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
