"""Joining ranges that follow each other in one file, so that many small tensors need few calls to the system."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dovetail.io.files.mapping import MappedSource
from dovetail.io.source import ByteFile, MappedBytes, Slot, Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SourceRange = tuple[Source, int, int]
"""A source and a range of its elements: start and stop."""


def part_mapped(ranges: Iterable[SourceRange]) -> tuple[list[MappedBytes], list[SourceRange]]:
    """Divide ranges into those that are bytes of mapped files, which are given as bytes, and all others."""
    mapped: list[MappedBytes] = []
    others: list[SourceRange] = []
    for each in ranges:
        source, start, stop = each
        if (found := source.mapped_bytes(start, stop)) is None:
            others.append(each)
        else:
            mapped.append(found)
    return mapped, others


def join_mapped(mapped: Iterable[MappedBytes]) -> list[SourceRange]:
    """Join ranges of mapped files that touch or overlap.

    Returns
    -------
    list
        Sources with elements of one byte, and their ranges. They can be prefetched, populated and released in place of
        the ranges that were given.

    """
    joined: list[SourceRange] = []
    places: defaultdict[tuple[str, int, int], list[tuple[int, int]]] = defaultdict(list)
    for path, size_bytes, mtime_ns, begin, end in mapped:
        if begin < end:
            found = places[path, size_bytes, mtime_ns]
            if found and found[-1][1] == begin:  # most ranges come in the order of the file
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
    for (path, size_bytes, mtime_ns), found in places.items():
        for begin, end in _merged(found):
            joined.append((MappedSource(path, begin, end - begin, 1, size_bytes, mtime_ns), 0, end - begin))
    return joined


def _merged(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort pairs of begin and end, and join those that touch or overlap."""
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
    """Writes parts of one buffer to the output, joining parts that follow each other in the same file.

    Parameters
    ----------
    buffer
        The stored bytes of all parts.

    """

    def __init__(self, buffer: NDArray[np.uint8]) -> None:
        self._buffer = buffer
        self._file: ByteFile | None = None
        self._offset_bytes = self._begin = self._end = 0

    def write(self, slot: Slot, start: int, stop: int, begin: int, end: int) -> None:
        """Write bytes ``begin:end`` of the buffer as the elements ``start:stop`` of `slot`, at the latest in `flush`.

        Raises
        ------
        OSError
            If the disk is full or fails.

        """
        place = slot.file_place(start, stop)
        if place is None:
            self.flush()
            slot.write(start, self._buffer[begin:end])
            return
        file, offset_bytes = place
        follows = self._end == begin and self._offset_bytes + self._end - self._begin == offset_bytes
        if self._file != file or not follows:
            self.flush()
            self._file, self._offset_bytes, self._begin = file, offset_bytes, begin
        self._end = end

    def flush(self) -> None:
        """Write the parts that `write` has held back.

        Raises
        ------
        OSError
            If the disk is full or fails.

        """
        if self._file is not None:
            self._file.write(self._offset_bytes, self._buffer[self._begin : self._end].data)
            self._file = None
