"""Finding the magnitudes of ranks of a tensor, in one pass over it where a sample leads to them, else digit by digit.

The passes of a search come in this order, and those that have nothing to find are left out:

1. a *sample* brackets the magnitude of every rank (see `dovetail.engine.methods.sample`);
2. one pass counts what lies above each bracket, and gathers what lies inside;
3. three passes find, digit by digit (see `dovetail.engine.methods.threshold`), what is still open: where the magnitude
   lies outside its bracket, where there would be too much to gather, and where no sample was taken.

Which way a rule was found never shows in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.bracket import NONZERO, count_bracket, count_changes
from dovetail.engine.kernels.convert import F32, ITEMSIZES
from dovetail.engine.methods.decoding import ElementRange, read_only
from dovetail.engine.methods.gathering import (
    COUNTED_BYTES,
    GATHERED_BYTES,
    GATHERED_SHARE,
    HEADER_BYTES,
    JOINED_BYTES,
    LISTED_BYTES,
    MOST_OF_CHUNK,
    SORTED_BYTES,
    BracketCounter,
    Gathered,
    Gathering,
    at_least,
    gathered_bytes,
)
from dovetail.engine.methods.sample import Bracket, Sample, runs, sample_elements
from dovetail.engine.methods.threshold import (
    DIGITS,
    KEEP_ALL,
    KEEP_NONE,
    DigitCounter,
    Rule,
    Rules,
    Tally,
    count_partial_bytes,
    follow,
    follow_exactly,
    tally_bytes,
)

SAMPLE: Final = 0
"""The pass over the sample."""
BRACKET: Final = 1
"""The pass over all elements that counts against brackets."""
FIRST_DIGIT: Final = 2
"""The first of the passes that count digits."""
PASSES: Final = FIRST_DIGIT + DIGITS
"""Reduce passes of a search, those included that are left out."""

Ranks = Sequence[int] | Callable[[int], Sequence[int]]
"""Ranks, counted from 1 at the greatest magnitude, or what gives them by the number of elements that are not zero."""


class SampleCounter:
    """Takes the magnitudes of the sample."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint32]] = []

    def add(self, values: NDArray[np.float32]) -> None:
        """Take more values of the sample."""
        self._parts.append(values.view(np.uint32) & np.uint32(0x7FFFFFFF))

    @property
    def counts(self) -> NDArray[np.uint32]:
        """Magnitude bits."""
        return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)


_OPEN: Final = Rule(0, 0, 0)
"""A rule of which nothing is known."""


def try_sampling() -> None:
    """Call the kernels that only large tensors need, as a search does: tensors on which kernels are tried are small."""
    values, room, counts = np.ones(2, np.float32), np.empty(2, np.uint32), np.zeros(4, np.int64)
    count_bracket(values, (1, 2), room, counts)
    raw = read_only(values.view(np.uint8))
    count_changes((raw, raw), np.array([F32, F32]), 0, 2, (1, 2), room, counts)


def is_fine(codes: Sequence[int]) -> bool:
    """Say of a base model and models, by their dtype codes, whether changes have all bits of float32."""
    return any(ITEMSIZES[code] > 2 for code in codes)


@dataclass(frozen=True, slots=True)
class Search:
    """Finds ranks of one or several task vectors of a tensor at once."""

    length: int
    """Elements of the tensor."""
    rules: int
    """Rules that are searched for, over all task vectors."""
    sampled: bool
    """Whether a sample may be taken."""
    exactly: bool = False
    """Whether a rank beyond the elements that are not zero has the magnitude zero; else all elements are kept."""
    fine: bool = True
    """Whether values have all bits of float32: of changes between values of 16 bits, most are equal to others."""

    @property
    def samples(self) -> bool:
        """Whether a sample is taken."""
        return self.sampled and sample_elements(self.length) > 0

    @property
    def _most_bytes(self) -> int:
        return min(max(GATHERED_BYTES, self.length // GATHERED_SHARE if self.fine else 0), self.length)

    def reads(self, step: int, rules: Sequence[Rules]) -> list[ElementRange] | None:
        """Say what a pass reads: runs of elements, or nothing, or None for all.

        Parameters
        ----------
        step
            The pass.
        rules
            The rules so far of every task vector that is searched; empty before the first pass.

        """
        found = [rule for each in rules for rule in each]
        if step == SAMPLE:
            return runs(self.length) if self.samples else []
        if step == BRACKET:
            return None if any(rule.bracket is not None for rule in found) else []
        return [] if found and all(rule.final for rule in found) else None

    @property
    def readings(self) -> tuple[int, int]:
        """How many passes read all elements, and the elements of the sample, where no bracket misses."""
        return (1, sample_elements(self.length)) if self.samples else (DIGITS, 0)

    def partial_bytes(self, elements: int) -> int:
        """Give the most bytes of a chunk's partial result."""
        digits = count_partial_bytes(self.rules)
        if not self.samples:
            return digits
        gathered = self.rules * (HEADER_BYTES + min(COUNTED_BYTES * elements, LISTED_BYTES))
        return max(digits, gathered)

    def accumulator_bytes(self, chunks: int) -> int:
        """Give the most bytes of an accumulator, with `finish` at work."""
        digits = tally_bytes(self.rules, chunks)
        if not self.samples:
            return digits
        gathered = self.rules * (self._most_bytes + LISTED_BYTES + HEADER_BYTES * chunks)
        sampled = 4 * sample_elements(self.length) * (2 * self.rules + 3)
        return digits + max(gathered, sampled)  # rules that are found one way hold what they know of ties meanwhile

    def scratch_bytes(self, size: int) -> int:
        """Give the bytes of working memory of the counters of a chunk, `size` elements of which are added at a time."""
        if not self.samples:
            return 0
        size = min(size, self.length)
        joining = max(SORTED_BYTES * (MOST_OF_CHUNK + size), JOINED_BYTES * 2 * MOST_OF_CHUNK)
        return 4 * size + self.rules * (12 * MOST_OF_CHUNK + 4 * size) + joining

    def counter(
        self, step: int, rules: Rules, room: NDArray[np.uint32]
    ) -> SampleCounter | BracketCounter | DigitCounter:
        """Make what counts a chunk's values of one task vector in a pass.

        Parameters
        ----------
        step, rules
            The pass, and the task vector's rules so far.
        room
            Working memory: as many elements as the most values that are added at a time.

        """
        if step == SAMPLE:
            return SampleCounter()
        return BracketCounter(rules, room) if step == BRACKET else DigitCounter(step - FIRST_DIGIT, rules)

    def begin(self, step: int) -> Any:
        """Make what adds up chunks, for one task vector."""
        if step == SAMPLE:
            return []
        return Gathering(self._most_bytes) if step == BRACKET else Tally(step - FIRST_DIGIT)

    def fold(self, step: int, accumulator: Any, partial: Any) -> Any:
        """Add the next chunk of one task vector."""
        if step == SAMPLE:
            accumulator.append(partial)
            return accumulator
        return accumulator.add(partial)

    def finish(self, step: int, accumulator: Any, ranks: Ranks, rules: Rules) -> Rules:
        """Find what can be found of the rules of one task vector.

        Parameters
        ----------
        step, accumulator
            The pass, and what all chunks have come to.
        ranks
            The wanted ranks.
        rules
            The rules so far.

        """
        if step == SAMPLE:
            return self._bracketed(Sample(accumulator[0], self.length), ranks)
        if step == BRACKET:
            return self._counted(accumulator, ranks, rules)
        digit = step - FIRST_DIGIT
        wanted = _wanted(ranks, int(accumulator.totals[0].sum())) if digit == 0 else ()
        return (follow_exactly if self.exactly else follow)(digit, accumulator, wanted, rules)

    def _bracketed(self, sample: Sample, ranks: Ranks) -> Rules:
        found, known = [], not callable(ranks)  # else a sample of zeros alone would make a rank 0
        for rank in _wanted(ranks, round(self.length * sample.nonzero)):
            bracket = sample.bracket(min(1.0, rank / self.length))
            fits = gathered_bytes(sample.inside(bracket), bracket, self.length) < 0.9 * self._most_bytes
            found.append(KEEP_NONE if known and rank == 0 else Rule(0, 0, 0, bracket=bracket if fits else None))
        return tuple(found)

    def _counted(self, gathering: Gathering, ranks: Ranks, rules: Rules) -> Rules:
        found = list(rules)
        for place, rule in enumerate(rules):
            if rule.bracket is None:
                continue
            chunks = [chunk[place] for chunk in gathering.chunks]
            nonzero = sum(int(chunk.counts[NONZERO]) for chunk in chunks)
            found[place] = self._found(chunks, rule.bracket, nonzero, _wanted(ranks, nonzero)[place])
        return tuple(found)

    def _found(self, chunks: Sequence[Gathered], bracket: Bracket, nonzero: int, rank: int) -> Rule:
        """Give the final rule of a rank, or one that is open if it is not inside the bracket."""
        if rank == 0 or (self.exactly and rank > nonzero):
            return KEEP_NONE
        if not self.exactly and rank >= nonzero:
            return KEEP_ALL
        if not all(chunk.whole for chunk in chunks):
            return _OPEN
        above = [at_least(chunk, bracket, bracket[1] + 1) for chunk in chunks]
        there = [at_least(chunk, bracket, bracket[0]) for chunk in chunks]
        if not sum(above) < rank <= sum(there):
            return _OPEN
        # The magnitude of the rank is the largest that so many elements reach: found by halving the bracket.
        low, high = bracket[0], bracket[1] + 1
        while high - low > 1:
            middle = (low + high) // 2
            if sum(at_least(chunk, bracket, middle) for chunk in chunks) >= rank:
                low = middle
            else:
                high = middle
        stronger = [at_least(chunk, bracket, low + 1) for chunk in chunks]
        reaching = [at_least(chunk, bracket, low) for chunk in chunks]
        here = [most - least for most, least in zip(reaching, stronger, strict=True)]
        before = tuple(accumulate(here[:-1], initial=0))
        return Rule(0, low, rank - sum(stronger), before, final=True)


def _wanted(ranks: Ranks, nonzero: int) -> Sequence[int]:
    return ranks(nonzero) if callable(ranks) else ranks
