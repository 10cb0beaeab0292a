"""Tensors with more rows than are stored: further rows, which another tensor has, follow the stored ones.

Elements are stored row by row, so that ranges of elements are joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.io.source import Decoding, MappedBytes, Source, checked_source, combined, out_of_range

_STEP_BYTES: Final = 64 * 2**10
"""Bytes of a mapped file that are copied at a time when a range is joined from two sources."""


@checked_source
@dataclass(frozen=True, slots=True)
class FilledElements:
    """The elements of a source, and after its last one those that a longer source has at the same places."""

    source: Source
    """Gives the first elements."""
    rest: Source
    """The longer source, with elements of the same size; it gives all elements after the last of `source`."""

    def __post_init__(self) -> None:
        if self.source.itemsize != self.rest.itemsize or self.source.length > self.rest.length:
            raise ValueError("the second source must be at least as long, with elements of the same size")

    @property
    def length(self) -> int:
        """Number of elements, which is that of the longer source."""
        return self.rest.length

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return self.source.itemsize

    @property
    def copies(self) -> bool:
        """Always true, because a range can lie in both sources and is then joined."""
        return True

    @property
    def scratch_bytes(self) -> int:
        """Most memory that a read takes besides what it returns, because the sources are read one after the other."""
        return max(self.source.scratch_bytes, self.rest.scratch_bytes)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of a range, without a copy if it lies in one source; raises as `Source.read` does."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        middle, itemsize = self.source.length, self.itemsize
        if stop <= middle:
            return self.source.read(start, stop)
        if start >= middle:
            return self.rest.read(start, stop)
        joined = np.empty((stop - start) * itemsize, np.uint8)
        for source, first, last in self._parts(start, stop):
            # If elements are not aligned in a mapped file, its pages, their copy and this copy are held at once: in
            # small steps, that stays little.
            step = last - first if source.mapped_bytes(first, last) is None else _STEP_BYTES // itemsize
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
        """Read a range into memory now; return ``False`` if the system cannot do that for a part of it."""
        done = [source.populate(first, last) for source, first, last in self._parts(start, stop)]
        return all(done)  # a list, so that every part is populated even if the first cannot be

    def release(self, start: int, stop: int) -> None:
        """Free the memory that a range takes."""
        for source, first, last in self._parts(start, stop):
            source.release(first, last)

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes | None:
        """Give the bytes of a mapped file that a range consists of; ``None`` if it lies in both sources."""
        middle = self.source.length
        if stop <= middle:
            return self.source.mapped_bytes(start, stop)
        return self.rest.mapped_bytes(start, stop) if start >= middle else None

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say how much reading a range decodes, in both sources together."""
        middle = self.source.length
        return combined(
            (
                self.source.decoding(min(start, middle), min(stop, middle)),
                self.rest.decoding(max(start, middle), max(stop, middle)),
            )
        )

    def stored_objects(self) -> None:
        """Give None, because the elements are stored in two tensors."""

    def _parts(self, start: int, stop: int) -> list[tuple[Source, int, int]]:
        """Cut a range where `source` ends; give the source of each part, and the part's first and last element."""
        middle = self.source.length
        parts = [(self.source, start, min(stop, middle)), (self.rest, max(start, middle), stop)]
        return [(source, first, last) for source, first, last in parts if first < last]
