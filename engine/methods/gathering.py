"""Counting a tensor's magnitudes against brackets, and gathering those inside, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.bracket import ABOVE, HIGH, LOW, count_bracket, count_changes
from dovetail.engine.methods.decoding import STRETCH, stored, stretches
from dovetail.engine.methods.packed import NOTHING, Packed, pack, packed_bytes
from dovetail.engine.methods.program import Chunk
from dovetail.engine.methods.sample import Bracket
from dovetail.engine.methods.threshold import Rules

GATHERED_BYTES: Final = 8 << 20
"""Most memory for the magnitudes inside one bracket; in a tensor of few elements, no more than a byte for each."""

GATHERED_SHARE: Final = 48
"""Elements for each byte of that memory in the largest tensors of float32, where it is more."""

MOST_OF_CHUNK: Final = 1 << 17
"""Most different magnitudes that are gathered in one chunk."""

LISTED_BYTES: Final = 1 << 19
"""Most memory for those of a chunk, when they are listed."""

_USUAL_CHUNK: Final = 1 << 20
"""Elements of a chunk of three inputs, roughly."""

_COUNTED_AT_ONCE: Final = 4 * STRETCH
"""Elements of a model that one call counts: each call takes as long as it takes to count thousands of elements, and
keeps other threads from calling meanwhile."""

COUNTED_BYTES: Final = 8
HEADER_BYTES: Final = 512
SORTED_BYTES: Final = 24
JOINED_BYTES: Final = 40
"""Most memory for each magnitude that is gathered, with its count; for what a chunk has besides; for each magnitude
while equal ones are found by sorting; and while those that are found are joined with those found before."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one chunk has of a bracket."""

    counts: NDArray[np.int64]
    """Counts by `ABOVE`, `HIGH`, `LOW` and `NONZERO`."""
    magnitudes: Packed
    """Magnitude bits strictly inside; none if there are too many."""
    reaching: NDArray[np.uint32] | None
    """How many elements inside have at least each of them, and 0; None if equal ones are listed one by one."""
    whole: bool
    """Whether all that lies inside is there."""

    @property
    def nbytes(self) -> int:
        """Memory for the magnitudes inside."""
        return self.magnitudes.nbytes + (0 if self.reaching is None else self.reaching.nbytes)

    def dropped(self) -> Gathered:
        """Give the counts alone, without the magnitudes inside."""
        return replace(self, magnitudes=NOTHING, reaching=None, whole=False)


def at_least(chunk: Gathered, bracket: Bracket, magnitude: int) -> int:
    """Count a chunk's elements of at least a magnitude, which is inside the bracket, at its edges, or just above."""
    low, high = bracket
    found = int(chunk.counts[ABOVE])
    if magnitude <= high:
        place = chunk.magnitudes.below(magnitude)
        inside = chunk.magnitudes.size - place if chunk.reaching is None else int(chunk.reaching[place])
        found += int(chunk.counts[HIGH]) + inside
    if magnitude <= low < high:
        found += int(chunk.counts[LOW])
    return found


def gathered_bytes(share: float, bracket: Bracket, length: int) -> float:
    """Foresee the memory for what lies inside a bracket, in chunks of a usual size.

    Parameters
    ----------
    share
        The share of elements with magnitudes strictly inside that differ among each other.
    bracket, length
        The bracket, and the elements of the tensor.

    """
    elements = min(length, _USUAL_CHUNK)
    return packed_bytes(int(share * elements), bracket[1] - bracket[0]) * length / elements


class BracketCounter:
    """Counts the values of a chunk against the brackets of several rules.

    Parameters
    ----------
    rules
        The rules; those without a bracket are passed over.
    room
        Receives magnitudes for a while: uint32, as many as the most values that are added at a time.

    """

    def __init__(self, rules: Rules, room: NDArray[np.uint32]) -> None:
        self._brackets = [rule.bracket for rule in rules]
        self._counts = [np.zeros(4, np.int64) for _ in rules]
        self._parts: list[list[NDArray[np.uint32]]] = [[] for _ in rules]
        self._found = [_NOTHING for _ in rules]
        self._whole = [True for _ in rules]
        self._room = room

    def add(self, values: NDArray[np.float32]) -> None:
        """Count more values of the chunk."""
        for place, bracket in enumerate(self._brackets):
            if bracket is not None:
                self._keep(place, count_bracket(values, bracket, self._room, self._counts[place]))

    def add_changes(
        self, sources: tuple[NDArray[np.uint8], ...], codes: NDArray[np.int64], start: int, stop: int
    ) -> None:
        """Count the changes of elements ``start:stop`` from a stored base model to a stored model."""
        for place, bracket in enumerate(self._brackets):
            first = stop if bracket is None else start
            while first < stop:
                first, inside = count_changes(sources, codes, first, stop, bracket, self._room, self._counts[place])
                self._keep(place, inside)

    def _keep(self, place: int, inside: int) -> None:
        """Keep the magnitudes inside a bracket that the room has."""
        if inside and self._whole[place]:
            self._parts[place].append(self._room[:inside].copy())
            if sum(part.size for part in self._parts[place]) > MOST_OF_CHUNK:
                self._join(place)

    def _join(self, place: int) -> None:
        """Count equal magnitudes together; give up if there are too many different ones."""
        parts, self._parts[place] = self._parts[place], []
        ones = [np.unique(part, return_counts=True) for part in ([np.concatenate(parts)] if parts else [])]
        magnitudes, numbers = _joined([self._found[place], *ones])
        self._whole[place] &= magnitudes.size <= MOST_OF_CHUNK
        self._found[place] = (magnitudes, numbers) if self._whole[place] else _NOTHING

    @property
    def counts(self) -> tuple[Gathered, ...]:
        """What the chunk has of each rule's bracket."""
        for place in range(len(self._brackets)):
            self._join(place)
        found = zip(self._counts, self._found, self._whole, strict=True)
        chunks = (
            Gathered(counts, *_listed(magnitudes, numbers), whole) for counts, (magnitudes, numbers), whole in found
        )
        return tuple(chunk if chunk.nbytes <= LISTED_BYTES else chunk.dropped() for chunk in chunks)


def count_in_brackets(
    chunk: Chunk, codes: Sequence[int], rules: Mapping[int, Rules]
) -> dict[int, tuple[Gathered, ...]]:
    """Count a chunk's task vectors against the brackets of their rules.

    Parameters
    ----------
    chunk
        The chunk, with a base model.
    codes
        Dtype codes of the base model's tensor and of the models'.
    rules
        The rules of each model that has some.

    """
    room, pairs = np.empty(STRETCH, np.uint32), np.array(codes, np.int64)
    base, *models = stored(chunk, codes, chunk.start, chunk.stop)
    counters = {model: BracketCounter(each, room) for model, each in rules.items()}
    for start, stop in stretches(chunk.start, chunk.stop, _COUNTED_AT_ONCE):
        for model, counter in counters.items():  # all while the base model's elements are in the L2 cache
            first, last = start - chunk.start, stop - chunk.start
            counter.add_changes((base, models[model]), pairs[[0, model + 1]], first, last)
    return {model: counter.counts for model, counter in counters.items()}


_Counted = tuple[NDArray[Any], NDArray[Any]]
"""Different magnitudes, ascending, and how many elements have each."""

_NOTHING: Final[_Counted] = (np.empty(0, np.uint32), np.empty(0, np.int64))


def _listed(magnitudes: NDArray[Any], numbers: NDArray[Any]) -> tuple[Packed, NDArray[np.uint32] | None]:
    """List magnitudes with the numbers of elements that reach them, or equal ones one by one: what takes less."""
    if not magnitudes.size:
        return NOTHING, None
    span = int(magnitudes[-1] - magnitudes[0])
    counted_bytes = packed_bytes(magnitudes.size, span) + 4 * (magnitudes.size + 1)
    if packed_bytes(int(numbers.sum()), span) <= counted_bytes:
        return pack(np.repeat(magnitudes, numbers)), None
    return pack(magnitudes), np.append(np.cumsum(numbers[::-1])[::-1], 0).astype(np.uint32)


def _joined(parts: Sequence[_Counted]) -> _Counted:
    """Count equal magnitudes of several parts together."""
    parts = [part for part in parts if part[0].size]
    if not parts:
        return _NOTHING
    if len(parts) == 1:
        return parts[0]
    magnitudes, numbers = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    order = np.argsort(magnitudes, kind="stable")  # merges what is sorted already
    magnitudes, numbers = magnitudes[order], numbers[order]
    first = np.flatnonzero(np.append(True, magnitudes[1:] != magnitudes[:-1]))
    return magnitudes[first], np.add.reduceat(numbers, first)


class Gathering:
    """The accumulator of a pass that counts against brackets: what every chunk has.

    Parameters
    ----------
    most_bytes
        Most memory for the magnitudes inside one bracket.

    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.chunks: list[tuple[Gathered, ...]] = []
        self._held: list[int] = []

    def add(self, found: tuple[Gathered, ...]) -> Gathering:
        """Add the next chunk's, and give the gathering itself; of what becomes too much, only counts are kept."""
        self._held = self._held or [0] * len(found)
        self._held = [held + each.nbytes for held, each in zip(self._held, found, strict=True)]
        self.chunks.append(found)
        for place, held in enumerate(self._held):
            if held > self._most_bytes:
                self._drop(place)
        return self

    def _drop(self, place: int) -> None:
        self._held[place] = 0
        for index, chunk in enumerate(self.chunks):
            self.chunks[index] = (*chunk[:place], chunk[place].dropped(), *chunk[place + 1 :])
