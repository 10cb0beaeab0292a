"""Tensors whose elements lie at regular distances in another source: transposed, or every second row or column of it.

One range of a transposed matrix can need a few elements of every row. They are read stretch by stretch, and each
stretch is let go of at once, so that memory does not grow with the matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dovetail.io.files.boxes import boxes
from dovetail.io.files.stretches import SPAN_BYTES, gather, span_bytes
from dovetail.io.files.strided import StridedSource
from dovetail.io.source import Decoding, Source, checked_source, combined, out_of_range

if TYPE_CHECKING:
    from numpy.typing import NDArray


def viewed(source: Source, first: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Source:
    """Give elements of a source at regular distances.

    Parameters
    ----------
    source
        What they are elements of.
    first
        The first of them.
    shape
        Dimensions, none of which is zero.
    strides
        Distance, in elements of the source, between neighbours along each dimension.

    """
    if isinstance(source, StridedSource) and (direct := source.view(first, shape, strides)) is not None:
        return direct  # a view of a view would gather every stretch element by element
    return ViewedSource(source, first, shape, strides)


@checked_source
@dataclass(frozen=True, slots=True)
class ViewedSource:
    """Elements of a source at regular distances."""

    source: Source
    """What they are elements of."""
    first: int
    """The first of them."""
    shape: tuple[int, ...]
    """Dimensions, none of which is zero."""
    strides: tuple[int, ...]
    """Distance, in elements of the source, between neighbours along each dimension."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return self.source.itemsize

    @property
    def copies(self) -> bool:
        """True: elements are gathered."""
        return True

    @property
    def scratch_bytes(self) -> int:
        """Most memory that a read takes beyond what it returns: a stretch, twice if the source copies."""
        stretch = min(self._span() * self.itemsize, 2 * SPAN_BYTES)
        return self.source.scratch_bytes + (2 if self.source.copies else 1) * stretch

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Gather the bytes of a range."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        out = np.empty((stop - start, self.itemsize), np.uint8)
        steps = [stride * self.itemsize for stride in self.strides]
        for box in boxes(self.shape, start, stop):
            place = self.first + sum(low * stride for low, stride in zip(box.lows, self.strides, strict=True))
            elements = out[box.offset : box.offset + box.length].reshape(*box.shape, self.itemsize)
            gather(elements, place * self.itemsize, steps, self._read_stretch)
        flat = out.reshape(-1)
        flat.flags.writeable = False
        return flat

    def _read_stretch(self, first_byte: int, size: int) -> NDArray[np.uint8]:
        low, high = first_byte // self.itemsize, (first_byte + size) // self.itemsize
        self.source.populate(low, high)
        found = self.source.read(low, high)
        if not self.source.copies:  # what is let go of must not be looked at any more
            found = found.copy()
        self.source.release(low, high)
        return found

    def prefetch(self, start: int, stop: int) -> None:
        """Do nothing, because a range's elements can be strewn over the whole source."""

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing: `read` makes resident what it gathers, stretch by stretch."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Do nothing: `read` has let go of what it gathered."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give none: elements are gathered."""

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading a range decodes: at most all that lies between its first and its last element."""
        stored = self.source.decoding(0, 0)
        if stored is None or start == stop:
            return stored
        ends = [
            (
                sum(low * stride for low, stride in zip(box.lows, self.strides, strict=True)),
                sum((high - 1) * stride for high, stride in zip(box.highs, self.strides, strict=True)),
            )
            for box in boxes(self.shape, start, stop)
        ]
        low, high = min(first for first, _ in ends), max(last for _, last in ends)
        return combined((stored, self.source.decoding(self.first + low, self.first + high + 1)))

    def stored_objects(self) -> None:
        """Give none: what is stored has other elements too, or another order."""

    def _span(self) -> int:
        return span_bytes(self.shape, self.strides, 1)
