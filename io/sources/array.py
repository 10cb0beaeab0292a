"""Tensors that are in memory already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dovetail.io.source import checked_source, out_of_range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@checked_source
@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """The elements of an array, which is never changed."""

    data: NDArray[np.uint8]
    """The bytes of all elements, flat, read-only, and aligned to the element size."""
    itemsize: int
    """Size of one element in bytes."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.data.size // self.itemsize

    @property
    def copies(self) -> bool:
        """Whether `read` copies: never."""
        return False

    @property
    def scratch_bytes(self) -> int:
        """Most memory that a read takes beyond what it returns: none."""
        return 0

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a range's bytes, as a view."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        return self.data[start * self.itemsize : stop * self.itemsize]

    def prefetch(self, start: int, stop: int) -> None:
        """Do nothing, because the elements are in memory."""

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing, because the elements are in memory."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Do nothing, because the memory is the caller's."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give none: the elements are in no file."""

    def decoding(self, start: int, stop: int) -> None:
        """Give none: nothing is decoded."""

    def stored_objects(self) -> None:
        """Give none: nothing is stored."""
