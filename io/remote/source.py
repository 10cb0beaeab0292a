"""A tensor's elements as a range of a remote file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.remote.file import RemoteFile
from dovetail.io.remote.read_ahead import Pool, pool
from dovetail.io.source import checked_source, out_of_range

if TYPE_CHECKING:
    from numpy.typing import NDArray


@checked_source
@dataclass(frozen=True, slots=True)
class RemoteSource:
    """Elements that are fetched when they are needed."""

    file: RemoteFile
    """The file."""
    offset_bytes: int
    """Position of the first element in the file."""
    length: int
    """Number of elements."""
    itemsize: int
    """Size of one element in bytes."""

    @property
    def copies(self) -> bool:
        """Always false: what is fetched is what is read, and a range takes its size once."""
        return False

    @property
    def scratch_bytes(self) -> int:
        """Zero: bytes are put in their place as they come, a few at a time."""
        return 0

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of elements ``[start, stop)``: those that `populate` made resident, else fetched now.

        Raises
        ------
        ChangedFileError
            If the file is no longer the one that was opened.
        RemoteError
            If it cannot be read, though tried several times.

        """
        begin, end = self._byte_range(start, stop)
        if begin == end:
            return _EMPTY
        here = pool()
        if (found := here.held(self.file, begin, end)) is not None:
            return found
        return Pool(0).take(self.file, begin, end)  # kept by nobody but the caller

    def prefetch(self, start: int, stop: int) -> None:
        """Start fetching a range, without waiting for it, if the read-ahead has room."""
        pool().start(self.file, *self._byte_range(start, stop))

    def populate(self, start: int, stop: int) -> bool:
        """Wait for a range, and keep it until it is released; raises as `read` does."""
        begin, end = self._byte_range(start, stop)
        if begin < end:
            pool().take(self.file, begin, end)
        return True

    def release(self, start: int, stop: int) -> None:
        """Let go of a range."""
        pool().drop(self.file, *self._byte_range(start, stop))

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give none: no file is mapped."""

    def decoding(self, start: int, stop: int) -> None:
        """Decode nothing: bytes are stored as they are."""

    def stored_objects(self) -> None:
        """Give none: a file holds many tensors."""

    def _byte_range(self, start: int, stop: int) -> tuple[int, int]:
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        return self.offset_bytes + start * self.itemsize, self.offset_bytes + stop * self.itemsize


_EMPTY: Final = np.empty(0, np.uint8)
_EMPTY.flags.writeable = False
