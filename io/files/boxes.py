"""Cutting a run of elements of a flattened array into boxes of that array."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A box of consecutive elements: one index in the first dimensions, a range in the next, and the others whole."""

    offset: int
    """Position of the first element within the run."""
    lows: tuple[int, ...]
    """First index in each dimension."""
    highs: tuple[int, ...]
    """One past the last index in each dimension."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the box."""
        return tuple(high - low for low, high in zip(self.lows, self.highs, strict=True))

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """Cut elements ``start:stop`` of a flattened array of `shape` into as few boxes as possible, in order.

    There are at most ``2 * len(shape) - 1`` boxes. For two dimensions they are like the parts of a span of hours: the
    rest of the first day, whole days, and the beginning of the last day.
    """
    if start < stop:
        yield from _cut(tuple(shape), start, stop, 0, ())


def _cut(shape: tuple[int, ...], start: int, stop: int, offset: int, before: tuple[int, ...]) -> Iterator[Box]:
    if not shape:
        yield _box(before, (), (), offset)
        return
    rest = shape[1:]
    row = math.prod(rest)
    first, head = divmod(start, row)
    last, tail = divmod(stop, row)
    if first == last:
        yield from _cut(rest, head, tail, offset, (*before, first))
        return
    if head:
        yield from _cut(rest, head, row, offset, (*before, first))
        offset += row - head
        first += 1
    if first < last:
        yield _box(before, (first, *(0 for _ in rest)), (last, *rest), offset)
        offset += (last - first) * row
    if tail:
        yield from _cut(rest, 0, tail, offset, (*before, last))


def _box(before: tuple[int, ...], lows: tuple[int, ...], highs: tuple[int, ...], offset: int) -> Box:
    return Box(offset, (*before, *lows), (*(index + 1 for index in before), *highs))
