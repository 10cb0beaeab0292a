"""Rules that pick the strongest elements of a tensor of any size, found digit by digit, exactly and chunk by chunk.

The magnitude of the last element that is kept is found digit by digit, each digit from the histograms of all chunks
(see `dovetail.engine.kernels.magnitude`). The number of elements of just that magnitude in each chunk settles ties by
index. `dovetail.engine.methods.selection` finds the same rules with fewer passes, where it can.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, repeat

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.magnitude import ALL_LEVELS, DIGIT_BINS, NO_THRESHOLD, find_place
from dovetail.engine.kernels.strongest import count_magnitudes

DIGITS = len(DIGIT_BINS)
"""Number of reduce passes of a search."""

_TIES_BYTES = 2 * 40
"""Allowance for a chunk's number in `Rule.before`, in the rules before and after a pass."""

Counts = tuple[NDArray[np.uint32], ...]
"""Histograms of one digit in one chunk, one for each rule that is searched for; empty for a rule that is final."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which elements of a tensor a model keeps, as far as the search has come."""

    level: int
    """Number of claims of the last candidate that is kept; candidates with fewer claims are all kept."""
    threshold: int
    """Magnitude bits of that candidate, or the higher digits found so far; larger magnitudes of its level are kept."""
    ties: int
    """How many candidates of that level and magnitude (or with those higher digits) are kept, lowest indices first."""
    before: tuple[int, ...] = ()
    """For every chunk, the number of ties in the chunks before it."""
    final: bool = False
    """Whether the rule is complete."""
    bracket: tuple[int, int] | None = None
    """Magnitude bits between which the threshold is expected, where a sample says so and nothing else is known yet."""


_OPEN = Rule(0, 0, 0)

KEEP_ALL = Rule(ALL_LEVELS, 0, 0, final=True)
KEEP_NONE = Rule(0, NO_THRESHOLD, 0, final=True)

Rules = tuple[Rule, ...]


class Tally:
    """Adds up the chunks' histograms of one digit: the accumulator of a search.

    Parameters
    ----------
    digit
        0, 1 or 2. The last digit's histograms are kept chunk by chunk too: they settle ties, but which of their bins
        matters is known only when all chunks are in.

    """

    def __init__(self, digit: int) -> None:
        self.totals: tuple[NDArray[np.int64], ...] = ()
        """Each rule's histogram over the chunks so far."""
        self.chunks: list[Counts] = []
        """At the last digit, every chunk's histograms."""
        self._keeps_chunks = digit == DIGITS - 1

    def add(self, counts: Counts) -> Tally:
        """Add the next chunk's histograms, and give the tally itself."""
        if not self.totals:
            self.totals = tuple(histogram.astype(np.int64) for histogram in counts)
        else:
            for whole, histogram in zip(self.totals, counts, strict=True):
                whole += histogram
        if self._keeps_chunks:
            self.chunks.append(counts)
        return self


def first_digit(counts: NDArray[np.int64], kept: int) -> Rule:
    """Find the number of claims and the highest digit of the last of `kept` candidates."""
    if kept == 0:
        return KEEP_NONE
    if kept >= counts.sum():
        return KEEP_ALL
    return Rule(*find_place(counts, kept))


def next_digit(rule: Rule, counts: NDArray[np.int64]) -> Rule:
    """Append a digit to the magnitude of the last candidate that is kept."""
    _, digit, ties = find_place(counts, rule.ties)
    return replace(rule, threshold=rule.threshold * counts.shape[1] + digit, ties=ties)


def finish(rule: Rule, chunks: Sequence[NDArray[np.uint32]]) -> Rule:
    """Note how many ties lie before each chunk; the chunks' histograms of the last digit tell."""
    digit = rule.threshold % chunks[0].size
    here = [int(chunk.flat[digit]) for chunk in chunks]
    return replace(rule, before=tuple(accumulate(here[:-1], initial=0)), final=True)


def count_partial_bytes(rules: int) -> int:
    """Compute the bytes of one chunk's histograms for a search of `rules` rules at once."""
    return 4 * DIGIT_BINS[0] * rules


def tally_bytes(rules: int, chunks: int) -> int:
    """Give the most that a `Tally` of `rules` rules takes, and what they say of ties in each of `chunks` chunks."""
    return rules * (8 * DIGIT_BINS[0] + chunks * (4 * DIGIT_BINS[-1] + _TIES_BYTES))


class DigitCounter:
    """Counts one digit of the values of a chunk for several rules, in a reduce pass of a search.

    Parameters
    ----------
    digit
        0, 1 or 2.
    rules
        The rules so far. For digit 0 they are not needed, and one histogram serves all of them.

    """

    def __init__(self, digit: int, rules: Rules) -> None:
        self._digit = digit
        self._rules = (KEEP_NONE,) if digit == 0 else rules
        self._counts = [
            np.zeros(DIGIT_BINS[digit] if digit == 0 or not rule.final else 0, np.int64) for rule in self._rules
        ]

    def add(self, values: NDArray[np.float32]) -> None:
        """Count more values of the chunk."""
        for rule, counts in zip(self._rules, self._counts, strict=True):
            if counts.size:
                count_magnitudes(values, self._digit, rule.threshold, counts)

    @property
    def counts(self) -> Counts:
        """The histograms, with 32-bit counts."""
        return tuple(counts.astype(np.uint32) for counts in self._counts)


def follow_exactly(digit: int, tally: Tally, ranks: Sequence[int], rules: Rules) -> Rules:
    """Find one more digit of the magnitudes at some ranks; a magnitude of zero gives `KEEP_NONE`.

    Unlike `follow`, this also finds a magnitude at a rank that keeps all candidates.
    """
    if digit == 0:
        counts = tally.totals[0][np.newaxis]
        nonzero = counts.sum()
        found = (KEEP_NONE if rank > nonzero else Rule(*find_place(counts, rank)) for rank in ranks)
        return _unless_final(rules, found)
    return follow(digit, tally, ranks, rules)


def _unless_final(rules: Rules, found: Iterable[Rule]) -> Rules:
    """Replace the rules that are not final yet; there may be none at all."""
    return tuple(old if old.final else new for old, new in zip(rules or repeat(_OPEN), found, strict=False))


def follow(digit: int, tally: Tally, kept: Sequence[int], rules: Rules) -> Rules:
    """Find one more digit of several rules.

    Parameters
    ----------
    digit
        0, 1 or 2.
    tally
        What every chunk's `DigitCounter` counted, in chunk order.
    kept
        How many elements each rule is to keep.
    rules
        The rules so far; for digit 0, those that are final already, if any.

    """
    if digit == 0:
        counts = tally.totals[0][np.newaxis]
        return _unless_final(rules, (first_digit(counts, count) for count in kept))
    found = list(rules)
    for place, rule in enumerate(rules):
        if not rule.final:
            found[place] = next_digit(rule, tally.totals[place][np.newaxis])
            if digit == DIGITS - 1:
                found[place] = finish(found[place], [counts[place] for counts in tally.chunks])
    return tuple(found)
