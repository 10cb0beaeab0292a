"""Tensors that are transposed, sliced or expanded views of a storage, so that their elements do not lie in order.

The elements are gathered by ordinary reads rather than through a map. One chunk of a transposed tensor can touch every
page of its storage, so that a map would exceed any limit on memory.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dovetail.io.errors import ChangedFileError, MissingFileError
from dovetail.io.files.boxes import boxes
from dovetail.io.files.smallfile import open_descriptor
from dovetail.io.files.stretches import SPAN_BYTES, gather, span_bytes
from dovetail.io.source import checked_source, out_of_range

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


@checked_source
@dataclass(frozen=True, slots=True)
class StridedSource:
    """A tensor with elements that lie at regular distances in a file."""

    path: str
    """The file."""
    offset_bytes: int
    """Position of the first element in the file."""
    shape: tuple[int, ...]
    """Dimensions."""
    strides: tuple[int, ...]
    """Distance, in elements, between neighbours along each dimension; not negative."""
    itemsize: int
    """Size of one element in bytes."""
    file_size_bytes: int
    """Size that the file must have."""
    file_mtime_ns: int
    """Modification time that the file must have, in nanoseconds since 1970."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def copies(self) -> bool:
        """Always true, because elements are gathered."""
        return True

    @property
    def scratch_bytes(self) -> int:
        """Most memory that one stretch of the file takes, gaps between elements included; one is held at a time."""
        if 0 in self.shape:
            return 0
        whole = span_bytes(self.shape, [stride * self.itemsize for stride in self.strides], self.itemsize)
        return min(whole, 2 * SPAN_BYTES)  # twice, because a row of a cut dimension may reach into the next row

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Gather the bytes of elements ``[start, stop)``.

        Returns
        -------
        uint8[(stop - start) * itemsize]
            Read-only.

        Raises
        ------
        ChangedFileError, MissingFileError
            If the file has changed since the checkpoint was opened, or is gone.
        IndexError
            If the range is not within the tensor.

        """
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        out = np.empty((stop - start, self.itemsize), np.uint8)
        descriptor = self._open()
        steps = [stride * self.itemsize for stride in self.strides]
        try:
            for box in boxes(self.shape, start, stop):
                place = _dot(box.lows, self.strides)
                elements = out[box.offset : box.offset + box.length].reshape(*box.shape, self.itemsize)
                gather(
                    elements, self.offset_bytes + place * self.itemsize, steps, partial(self._read_stretch, descriptor)
                )
        finally:
            os.close(descriptor)
        flat = out.reshape(-1)
        flat.flags.writeable = False
        return flat

    def view(self, first: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> StridedSource | None:
        """Give elements at regular distances as elements of the file, so that each is looked for once.

        Parameters
        ----------
        first
            The first of them, counted along this tensor.
        shape
            Dimensions, none of which is zero.
        strides
            Distance, in elements of this tensor, between neighbours along each dimension.

        Returns
        -------
        StridedSource or None
            None if they do not lie at regular distances in the file.

        """
        if not self.length or not self.shape:
            return None
        own = self._indices(first)
        steps = [self._indices(stride if size > 1 else 0) for size, stride in zip(shape, strides, strict=True)]
        for axis, size in enumerate(self.shape):
            reach = sum((count - 1) * step[axis] for count, step in zip(shape, steps, strict=True))
            if own[axis] + reach >= size:  # a row of the view goes on in this tensor's next row
                return None
        return replace(
            self,
            offset_bytes=self.offset_bytes + self.itemsize * _dot(own, self.strides),
            shape=shape,
            strides=tuple(_dot(step, self.strides) for step in steps),
        )

    def _indices(self, place: int) -> tuple[int, ...]:
        """Turn a count of elements along this tensor into an index, or a distance into one along each dimension."""
        found = []
        for size in reversed(self.shape):
            place, index = divmod(place, size)
            found.append(index)
        found[-1] += place * self.shape[0]  # beyond the tensor, which no reach allows
        return tuple(reversed(found))

    def prefetch(self, start: int, stop: int) -> None:
        """Do nothing, because a range's elements can be strewn over the whole file."""

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing, because no file is mapped."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Do nothing, because `read` returns arrays that hold their own bytes."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give None, because no file is mapped."""

    def decoding(self, start: int, stop: int) -> None:
        """Give None, because nothing is stored in chunks."""

    def stored_objects(self) -> None:
        """Give None, because the file may hold other tensors too."""

    def _open(self) -> int:
        try:
            descriptor = open_descriptor(self.path, os.O_RDONLY)
        except OSError as error:
            raise MissingFileError(
                f"cannot open {self.path} ({error.strerror})",
                "the file that was there when the checkpoint was opened",
                "put it back and run again",
            ) from error
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.file_size_bytes, self.file_mtime_ns):
            os.close(descriptor)
            raise ChangedFileError(
                f"{self.path} changed since the checkpoint was opened",
                f"{self.file_size_bytes} bytes, modified at {self.file_mtime_ns} ns",
                "leave checkpoints alone while they are read, and run again",
            )
        return descriptor

    def _read_stretch(self, descriptor: int, offset_bytes: int, size: int) -> NDArray[np.uint8]:
        raw = bytearray(size)
        if (got := os.preadv(descriptor, [raw], offset_bytes)) != size:
            raise ChangedFileError(
                f"{self.path} ended after {got} of {size} bytes at byte {offset_bytes}",
                f"{self.file_size_bytes} bytes in all",
                "check that the file was not cut short",
            )
        return np.frombuffer(raw, np.uint8)


def _dot(indices: Iterable[int], strides: Iterable[int]) -> int:
    return sum(index * stride for index, stride in zip(indices, strides, strict=True))
