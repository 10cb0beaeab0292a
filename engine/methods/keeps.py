"""What a model keeps of its task vector, without regard to other models.

A model keeps everything, a band of ranks by magnitude, or a part at random. A `Keep` says which, and is part of the
plan; a marker made from it marks the kept elements of one chunk, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.philox import mark_random, random_words
from dovetail.engine.kernels.rank_scratch import BINS, rank_scratch_bytes
from dovetail.engine.kernels.sparsified import BAND, RANDOM
from dovetail.engine.kernels.statistics import mark_nonzero
from dovetail.engine.kernels.strongest import mark_strongest
from dovetail.engine.methods.decoding import Floats, Marks
from dovetail.engine.methods.threshold import Rules

Key = tuple[int, int]
"""Key of the random numbers of a tensor: two words of 32 bits."""


class Marker(Protocol):
    """Marks the elements of a chunk that a model keeps."""

    def mark(self, tau: Floats, low: int, start: int, stop: int) -> Marks:
        """Mark those of elements ``start:stop`` that the model keeps.

        Parameters
        ----------
        tau
            Task vector from element `low` on; where rows matter, at least the rows that hold ``start:stop``.
        low, start, stop
            Indices of elements in the tensor.

        """
        ...


@dataclass(frozen=True, slots=True)
class KeepEverything:
    """Keep every element that is not zero."""


@dataclass(frozen=True, slots=True)
class KeepBand:
    """Keep the elements with ranks from `skipped` + 1 to `last`.

    Rank 1 is the element of greatest magnitude; elements of equal magnitude are ranked by index, lowest first.
    """

    skipped: int
    """How many of the strongest elements are dropped."""
    last: int
    """Rank of the last element kept, counted from 1; 0 keeps nothing."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks to search for: the last that is kept and, if any are dropped, the last that is dropped."""
        return (self.last, self.skipped) if self.skipped else (self.last,)


@dataclass(frozen=True, slots=True)
class KeepAtRandom:
    """Keep each element with the same probability: DARE, https://arxiv.org/abs/2311.03099, section 3."""

    density: float
    """The probability, from 0 to 1."""
    key: Key
    """Key of the random numbers."""
    stream: int
    """Stream of the random numbers: the index of the model."""


@dataclass(frozen=True, slots=True)
class KeepByRank:
    """Keep each element with a probability that grows with its rank in its row: MAGPRUNE of DELLA.

    https://arxiv.org/abs/2406.11617, section 3.1. The probability goes from density - epsilon for the smallest
    magnitude of a row to density + epsilon for the greatest. A row is a run along the last dimension; a vector is one
    row.
    """

    density: float
    """Mean of the probabilities."""
    epsilon: float
    """Distance of the least and the greatest probability from the mean."""
    row_length: int
    """Elements of a row."""
    key: Key
    """Key of the random numbers."""
    stream: int
    """Stream of the random numbers: the index of the model."""


Keep = KeepEverything | KeepBand | KeepAtRandom | KeepByRank
"""What one model keeps of one tensor."""


Bounds = tuple[tuple[int, int, int], ...]
"""Of each rank that a band of ranks asks for, the threshold, the ties, and the ties that come before the chunk."""


def bounds_of(rules: Sequence[Rules], chunk: int) -> list[Bounds]:
    """Give what has been found of every model's ranks, for the chunk of an index."""
    return [
        tuple((rule.threshold, rule.ties, rule.before[chunk] if rule.before else 0) for rule in found)
        for found in rules
    ]


def describe_keeps(keeps: Sequence[Keep], bounds: Sequence[Bounds]) -> tuple[NDArray[Any], ...]:
    """Describe what the models keep in the arrays that `dovetail.engine.kernels.sparsified` reads."""
    count = len(keeps)
    kinds, edges, key = np.zeros(count, np.int64), np.zeros(count), np.zeros(2, np.uint64)
    rules, seen = np.full((count, 2, 2), -1, np.int64), np.zeros((count, 2), np.int64)
    for model, (keep, found) in enumerate(zip(keeps, bounds, strict=True)):
        if isinstance(keep, KeepBand):
            kinds[model] = BAND
            for place, (threshold, ties, before) in enumerate(found):
                rules[model, place] = threshold, ties
                seen[model, place] = before
        elif isinstance(keep, KeepAtRandom):
            kinds[model], edges[model] = RANDOM, keep.density * 2.0**32
            key[:] = keep.key
    return kinds, rules, seen, edges, key


def make_markers(keeps: Sequence[Keep], bounds: Sequence[Bounds], size: int) -> list[Marker]:
    """Make a marker for each model and up to `size` elements; a mask is valid until any of them marks again.

    They share their working memory, which for long rows is large.

    Parameters
    ----------
    keeps
        What each model keeps.
    bounds
        For each model that keeps a band, what has been found of its ranks. It marks every element of the chunk once,
        in order.
    size
        Most elements that are marked at a time.

    """
    scratch = _Scratch(size)
    return [_make_marker(keep, found, scratch) for keep, found in zip(keeps, bounds, strict=True)]


def _make_marker(keep: Keep, bounds: Bounds, scratch: _Scratch) -> Marker:
    if isinstance(keep, KeepBand):
        return _BandMarker(bounds, scratch)
    if isinstance(keep, KeepEverything):
        return _EverythingMarker(scratch)
    if isinstance(keep, KeepAtRandom):
        return _RandomMarker(keep, scratch)
    assert isinstance(keep, KeepByRank)
    return _RankMarker(keep, scratch)


def marker_scratch_bytes(size: int) -> int:
    """Compute the bytes of all markers for `size` elements: masks, random words, bins, and what ranks of a row take."""
    return (2 + 4) * size + rank_scratch_bytes(size)


class _Scratch:
    """What markers work in, one after another."""

    def __init__(self, size: int) -> None:
        self.mask, self.other = np.empty(size, np.uint8), np.empty(size, np.uint8)
        self.words = np.empty(size, np.uint32)
        self.counts = np.zeros(BINS, np.uint32)


class _EverythingMarker:
    def __init__(self, scratch: _Scratch) -> None:
        self._mask = scratch.mask

    def mark(self, tau: Floats, low: int, start: int, stop: int) -> Marks:
        mask = self._mask[: stop - start]
        mark_nonzero(tau[start - low : stop - low], mask)
        return mask


class _BandMarker:
    def __init__(self, bounds: Bounds, scratch: _Scratch) -> None:
        self._bounds, self._scratch = bounds, scratch
        self._seen = [before for _, _, before in bounds]

    def mark(self, tau: Floats, low: int, start: int, stop: int) -> Marks:
        size = stop - start
        masks = self._scratch.mask[:size], self._scratch.other[:size]
        for place, (threshold, ties, _) in enumerate(self._bounds):
            self._seen[place] = mark_strongest(
                tau[start - low : stop - low], threshold, ties, self._seen[place], masks[place]
            )
        if len(self._bounds) > 1:  # the second rank is the last that is dropped as too large
            np.greater(masks[0], masks[1], out=masks[0], casting="unsafe")
        return masks[0]


class _RandomMarker:
    def __init__(self, keep: KeepAtRandom, scratch: _Scratch) -> None:
        self._keep, self._key, self._scratch = keep, _words_of(keep.key), scratch

    def mark(self, tau: Floats, low: int, start: int, stop: int) -> Marks:
        mask, words = self._scratch.mask[: stop - start], self._scratch.words[: stop - start]
        random_words(self._key, self._keep.stream, start, words)
        mark_random(words, self._keep.density * 2.0**32, tau[start - low : stop - low], mask)
        return mask


class _RankMarker:
    def __init__(self, keep: KeepByRank, scratch: _Scratch) -> None:
        from dovetail.engine.kernels.ranks import mark_by_rank  # of DELLA alone

        self._mark_by_rank = mark_by_rank
        self._keep, self._key, self._scratch = keep, _words_of(keep.key), scratch

    def mark(self, tau: Floats, low: int, start: int, stop: int) -> Marks:
        keep, row, scratch = self._keep, self._keep.row_length, self._scratch
        first, last = start // row * row, -(-stop // row) * row
        words, mask = scratch.words[: last - first], scratch.mask[: last - first]
        random_words(self._key, keep.stream, first, words)
        rows = tau[first - low : last - low]
        self._mark_by_rank(rows, row, (keep.density, keep.epsilon), words, mask, scratch.counts)
        return mask[start - first : stop - first]


def _words_of(key: Key) -> NDArray[np.uint64]:
    return np.array(key, np.uint64)
