"""Tensors with fewer or more rows than are stored: leading rows alone, or rows of another tensor after the last.

Elements are stored row by row, so both are runs of whole elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.io.source import Source


@dataclass(frozen=True, slots=True)
class LeadingElements:
    """The first elements of a source."""

    source: Source
    """What is cut."""
    length: int
    """Number of elements kept, at most the source's."""

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return self.source.itemsize

    @property
    def copies(self) -> bool:
        """Whether `read` has to copy."""
        return self.source.copies

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a range's bytes."""
        return self.source.read(start, stop)

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range from disk, without waiting for it."""
        self.source.prefetch(start, stop)

    def populate(self, start: int, stop: int) -> bool:
        """Make a range resident now."""
        return self.source.populate(start, stop)

    def release(self, start: int, stop: int) -> None:
        """Let go of a range's resident memory."""
        self.source.release(start, stop)


@dataclass(frozen=True, slots=True)
class FilledElements:
    """A source, and after its last element those that follow in another of the same element size."""

    source: Source
    """What comes first."""
    rest: Source
    """The longer source, whose elements stand where the first has none."""

    def __post_init__(self) -> None:
        if self.source.itemsize != self.rest.itemsize or self.source.length > self.rest.length:
            raise ValueError("the second source must be at least as long, with elements of the same size")

    @property
    def length(self) -> int:
        """Number of elements: those of the longer source."""
        return self.rest.length

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return self.source.itemsize

    @property
    def copies(self) -> bool:
        """True: a range that is in both is put together."""
        return True

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a range's bytes; no copy where it is in one source alone."""
        middle = self.source.length
        if stop <= middle:
            return self.source.read(start, stop)
        if start >= middle:
            return self.rest.read(start, stop)
        joined = np.concatenate((self.source.read(start, middle), self.rest.read(middle, stop)))
        joined.flags.writeable = False
        return joined

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range from disk, without waiting for it."""
        for source, first, last in self._parts(start, stop):
            source.prefetch(first, last)

    def populate(self, start: int, stop: int) -> bool:
        """Make a range resident now."""
        done = [source.populate(first, last) for source, first, last in self._parts(start, stop)]
        return all(done)  # every part, even where the system cannot for the first

    def release(self, start: int, stop: int) -> None:
        """Let go of a range's resident memory."""
        for source, first, last in self._parts(start, stop):
            source.release(first, last)

    def _parts(self, start: int, stop: int) -> list[tuple[Source, int, int]]:
        """Cut a range where the first source ends."""
        middle = self.source.length
        parts = [(self.source, start, min(stop, middle)), (self.rest, max(start, middle), stop)]
        return [(source, first, last) for source, first, last in parts if first < last]
