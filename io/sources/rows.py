"""Tensors with fewer or more rows than are stored: leading rows alone, or rows of another tensor after the last.

Elements are stored row by row, so both are runs of whole elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.io.source import Decoding, MappedBytes, Source, checked_source, combined, out_of_range

_PIECE_BYTES: Final = 64 * 2**10
"""Bytes of a mapped file that are copied at a time where two sources are put together."""


@checked_source
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

    @property
    def scratch_bytes(self) -> int:
        """Most memory that a read takes beyond what it returns: the source's."""
        return self.source.scratch_bytes

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a range's bytes."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
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

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes | None:
        """Say which bytes of a mapped file a range is: the same as in the source."""
        return self.source.mapped_bytes(start, stop)

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading a range decodes: the same as in the source."""
        return self.source.decoding(start, stop)

    def stored_objects(self) -> None:
        """Give none: what is stored has more elements."""


@checked_source
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

    @property
    def scratch_bytes(self) -> int:
        """Most memory that a read takes beyond what it returns: the sources are read one after the other."""
        return max(self.source.scratch_bytes, self.rest.scratch_bytes)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a range's bytes; no copy where it is in one source alone."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        middle, itemsize = self.source.length, self.itemsize
        if stop <= middle:
            return self.source.read(start, stop)
        if start >= middle:
            return self.rest.read(start, stop)
        joined = np.empty((stop - start) * itemsize, np.uint8)
        for source, first, last in self._parts(start, stop):
            # Of a mapped file whose elements are not aligned, pages, their copy and this copy would be held at once.
            step = last - first if source.mapped_bytes(first, last) is None else _PIECE_BYTES // itemsize
            for low in range(first, last, step):
                high = min(last, low + step)
                joined[(low - start) * itemsize : (high - start) * itemsize] = source.read(low, high)
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

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes | None:
        """Say which bytes of a mapped file a range is, if it is in one source alone."""
        middle = self.source.length
        if stop <= middle:
            return self.source.mapped_bytes(start, stop)
        return self.rest.mapped_bytes(start, stop) if start >= middle else None

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading a range decodes: in both sources together."""
        middle = self.source.length
        return combined(
            (
                self.source.decoding(min(start, middle), min(stop, middle)),
                self.rest.decoding(max(start, middle), max(stop, middle)),
            )
        )

    def stored_objects(self) -> None:
        """Give none: what is stored are two tensors."""

    def _parts(self, start: int, stop: int) -> list[tuple[Source, int, int]]:
        """Cut a range where the first source ends."""
        middle = self.source.length
        parts = [(self.source, start, min(stop, middle)), (self.rest, max(start, middle), stop)]
        return [(source, first, last) for source, first, last in parts if first < last]
