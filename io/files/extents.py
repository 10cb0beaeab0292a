"""Ranges that follow each other in one file, taken as one: small tensors cost little but the calls to the system."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dovetail.io.files.mapping import MappedSource
from dovetail.io.files.outfile import FileSlot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dovetail.io.files.outfile import OutFile
    from dovetail.io.source import Slot, Source

Range = tuple["Source", int, int]
"""A source and the range of its elements: start and stop."""


def is_mapped(each: Range) -> bool:
    """Whether a range is part of a mapped file."""
    return type(each[0]) is MappedSource


def place_of(source: Source, start: int, stop: int) -> tuple[str, int, int]:
    """Say in which file a range of a mapped source lies, and its first and last byte there."""
    assert isinstance(source, MappedSource)
    first = source.offset_bytes
    return source.path, first + start * source.itemsize, first + stop * source.itemsize


def join_ranges(ranges: Iterable[Range]) -> list[Range]:
    """Join ranges of mapped files that touch or overlap.

    Returns
    -------
    list
        Ranges to prefetch, populate and release in place of those given, not to be read: they know no elements.

    """
    joined: list[Range] = []
    places: defaultdict[tuple[str, int, int], list[tuple[int, int]]] = defaultdict(list)
    for source, start, stop in ranges:
        assert isinstance(source, MappedSource)
        if start < stop:
            _, begin, end = place_of(source, start, stop)
            found = places[source.path, source.file_size_bytes, source.file_mtime_ns]
            if found and found[-1][1] == begin:  # as they mostly come
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
    for (path, size_bytes, mtime_ns), found in places.items():
        for begin, end in _merged(found):
            joined.append((MappedSource(path, begin, end - begin, 1, size_bytes, mtime_ns), 0, end - begin))
    return joined


def _merged(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort (begin, end) and join those that touch or overlap."""
    if len(places) == 1:
        return places
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(places):
        if merged and merged[-1][1] >= begin:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


class JoinedWriter:
    """Writes parts of one buffer, in as few calls as their places in the output allow.

    Parameters
    ----------
    buffer
        Holds the stored bytes of all parts.

    """

    def __init__(self, buffer: NDArray[np.uint8]) -> None:
        self._buffer = buffer
        self._file: OutFile | None = None
        self._offset_bytes = self._begin = self._end = 0

    def write(self, slot: Slot, start: int, begin: int, end: int) -> None:
        """Write bytes ``begin:end`` of the buffer as the elements of `slot` from `start` on, now or by `flush`.

        Raises
        ------
        OSError
            If the disk is full or fails.

        """
        if not isinstance(slot, FileSlot):
            self.flush()
            slot.write(start, self._buffer[begin:end])
            return
        offset_bytes = slot.byte_range(start, start + (end - begin) // slot.itemsize)[0]
        follows = self._end == begin and self._offset_bytes + self._end - self._begin == offset_bytes
        if self._file != slot.file or not follows:
            self.flush()
            self._file, self._offset_bytes, self._begin = slot.file, offset_bytes, begin
        self._end = end

    def flush(self) -> None:
        """Write what waits to be written."""
        if self._file is not None:
            size_bytes = self._end - self._begin
            place = FileSlot(self._file, self._offset_bytes, size_bytes, 1)
            place.write(0, self._buffer[self._begin : self._end])
            self._file = None
