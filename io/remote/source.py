"""A source that reads a tensor from a range of a remote file."""

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
    """A tensor with elements that lie, one after another, in a remote file, and that are fetched when needed."""

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
        """Always false, because `read` returns the buffer into which the bytes were fetched."""
        return False

    @property
    def scratch_bytes(self) -> int:
        """Zero, because bytes are stored in their place as they come, a few at a time."""
        return 0

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of elements ``[start, stop)``, which are fetched now unless `populate` has fetched them.

        Raises
        ------
        ChangedFileError
            If the file has changed since it was opened.
        RemoteError
            If the file could not be read in several attempts.
        IndexError
            If the range is not within the tensor.

        """
        begin, end = self._byte_range(start, stop)
        if begin == end:
            return _EMPTY
        here = pool()
        if (found := here.held(self.file, begin, end)) is not None:
            return found
        return Pool(0).take(self.file, begin, end)  # a pool for this read alone: only the caller keeps the bytes

    def prefetch(self, start: int, stop: int) -> None:
        """Start fetching a range, without waiting for it, if the pool of the run has room."""
        pool().start(self.file, *self._byte_range(start, stop))

    def populate(self, start: int, stop: int) -> bool:
        """Wait for a range, and keep it until it is released; raises as `read` does."""
        begin, end = self._byte_range(start, stop)
        if begin < end:
            pool().take(self.file, begin, end)
        return True

    def release(self, start: int, stop: int) -> None:
        """Drop a range from the pool of the run."""
        pool().drop(self.file, *self._byte_range(start, stop))

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give None, because no file is mapped."""

    def decoding(self, start: int, stop: int) -> None:
        """Give None, because nothing is stored in chunks."""

    def stored_objects(self) -> None:
        """Give None, because the file may hold other tensors too."""

    def _byte_range(self, start: int, stop: int) -> tuple[int, int]:
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        return self.offset_bytes + start * self.itemsize, self.offset_bytes + stop * self.itemsize


_EMPTY: Final = np.empty(0, np.uint8)
_EMPTY.flags.writeable = False
