"""Tensors that are transposed, sliced or expanded views of a storage, so that their elements do not lie in order.

The elements are gathered by ordinary reads rather than through a map. One chunk of a transposed tensor can touch every
page of its storage, so that a map would exceed any limit on memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dovetail.io.errors import ChangedFileError, MissingFileError
from dovetail.io.files.boxes import boxes
from dovetail.io.source import checked_source, out_of_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPAN_BYTES: Final = 2**20
"""Longest stretch of the file, in bytes, that is read at once."""

_SHORT_SPAN_BYTES: Final = 2**16
"""Stretches of at most this many bytes are read whole, however little of them is needed."""

_WASTE: Final = 4
"""Longer stretches are read whole if at least one in this many of their bytes is needed."""


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
        whole = _span_bytes(self.shape, [stride * self.itemsize for stride in self.strides], self.itemsize)
        return min(whole, 2 * _SPAN_BYTES)  # twice, because a row of a cut dimension may reach into the next row

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
        try:
            for box in boxes(self.shape, start, stop):
                place = sum(index * stride for index, stride in zip(box.lows, self.strides, strict=True))
                elements = out[box.offset : box.offset + box.length].reshape(*box.shape, self.itemsize)
                self._gather(descriptor, elements, self.offset_bytes + place * self.itemsize)
        finally:
            os.close(descriptor)
        flat = out.reshape(-1)
        flat.flags.writeable = False
        return flat

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
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
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

    def _gather(self, descriptor: int, box: NDArray[np.uint8], offset_bytes: int) -> None:
        """Fill a box of elements from stretches of the file, taking the dimension with the largest stride first."""
        order = sorted(range(len(self.strides)), key=lambda axis: (-self.strides[axis], -self.shape[axis]))
        box = box.transpose(*order, len(order))
        steps = [self.strides[axis] * self.itemsize for axis in order]
        sizes = box.shape[:-1]
        inner = len(sizes)  # the dimensions from here on are read in one stretch
        while inner and _worth_reading(sizes[inner - 1 :], steps[inner - 1 :], self.itemsize):
            inner -= 1
        if inner and inner == len(sizes):  # even one dimension is too long: it is cut
            inner -= 1
        most = max(1, _SPAN_BYTES // max(1, steps[inner])) if inner < len(sizes) else 1
        for index in np.ndindex(*sizes[:inner]):
            begin = offset_bytes + sum(position * step for position, step in zip(index, steps, strict=False))
            part = box[index]
            if _span_bytes(sizes[inner:], steps[inner:], self.itemsize) <= _SPAN_BYTES:
                self._read_stretch(descriptor, part, begin, steps[inner:])
                continue
            for first in range(0, sizes[inner], most):
                self._read_stretch(descriptor, part[first : first + most], begin + first * steps[inner], steps[inner:])

    def _read_stretch(self, descriptor: int, part: NDArray[np.uint8], offset_bytes: int, steps: list[int]) -> None:
        size = _span_bytes(part.shape[:-1], steps, self.itemsize)
        raw = bytearray(size)
        if (got := os.preadv(descriptor, [raw], offset_bytes)) != size:
            raise ChangedFileError(
                f"{self.path} ended after {got} of {size} bytes at byte {offset_bytes}",
                f"{self.file_size_bytes} bytes in all",
                "check that the file was not cut short",
            )
        part[...] = as_strided(np.frombuffer(raw, np.uint8), part.shape, (*steps, 1))


def _span_bytes(sizes: Iterable[int], steps: Iterable[int], itemsize: int) -> int:
    """Count the bytes from the first byte of the first element to the last byte of the last element."""
    return sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) + itemsize


def _worth_reading(sizes: tuple[int, ...], steps: list[int], itemsize: int) -> bool:
    span = _span_bytes(sizes, steps, itemsize)
    return span <= _SHORT_SPAN_BYTES or (span <= _SPAN_BYTES and span <= _WASTE * math.prod(sizes) * itemsize)
