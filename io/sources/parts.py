"""Tensors that are parts of another tensor, or are joined from several, as fused and single experts are.

Elements are stored row by row, so a matrix of a stack of matrices is a run of elements, and the stack is such runs one
after another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.dtypes import DTYPES, DType
from dovetail.io.source import Decoding, MappedBytes, Source, checked_source, combined, out_of_range
from dovetail.io.sources.floats import decode_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEP_BYTES: Final = 64 * 2**10
"""Bytes of a part that are copied, or decoded, at a time."""


@checked_source
@dataclass(frozen=True, slots=True)
class ElementRun:
    """Consecutive elements of a source."""

    source: Source
    """What they are elements of."""
    first: int
    """The first of them."""
    length: int
    """Number of elements."""

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
        return self.source.read(self.first + start, self.first + stop)

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range from disk, without waiting for it."""
        self.source.prefetch(self.first + start, self.first + stop)

    def populate(self, start: int, stop: int) -> bool:
        """Make a range resident now."""
        return self.source.populate(self.first + start, self.first + stop)

    def release(self, start: int, stop: int) -> None:
        """Let go of a range's resident memory."""
        self.source.release(self.first + start, self.first + stop)

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes | None:
        """Say which bytes of a mapped file a range is."""
        return self.source.mapped_bytes(self.first + start, self.first + stop)

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading a range decodes."""
        return self.source.decoding(self.first + start, self.first + stop)

    def stored_objects(self) -> None:
        """Give none: what is stored has other elements too."""


@checked_source
@dataclass(frozen=True, slots=True)
class JoinedSource:
    """Sources one after another."""

    parts: tuple[Source, ...]
    """The sources, one at least, none of them empty."""
    dtypes: tuple[DType, ...]
    """Their dtypes."""
    starts: tuple[int, ...]
    """First element of every part, and one past the last of all."""
    dtype: DType
    """Dtype of what is read: the parts' own if they share one, else float32."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.starts[-1]

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return self.dtype.itemsize

    @property
    def copies(self) -> bool:
        """True: a range that is in several parts is put together."""
        return True

    @property
    def scratch_bytes(self) -> int:
        """Most memory that a read takes beyond twice what it returns: the parts are read one after another."""
        return max(part.scratch_bytes for part in self.parts) + 2 * _STEP_BYTES

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a range's bytes; no copy where it is in one part alone, and of its dtype."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        steps = list(self._steps(start, stop))
        if len(steps) == 1 and self.dtypes[steps[0][0]] == self.dtype:
            index, low, high = steps[0]
            return self.parts[index].read(low, high)
        joined = np.empty((stop - start) * self.itemsize, np.uint8)
        done = 0
        for index, first, last in steps:
            part, dtype = self.parts[index], self.dtypes[index]
            step = max(1, _STEP_BYTES // part.itemsize)
            if dtype == self.dtype and part.mapped_bytes(first, last) is None:
                step = last - first  # what is copied once is best copied as a whole
            for low in range(first, last, step):
                high = min(last, low + step)
                target = joined[done : done + (high - low) * self.itemsize]
                if dtype == self.dtype:
                    target[:] = part.read(low, high)
                else:
                    decode_into(part.read(low, high), dtype, target.view(np.float32))
                done += target.size
        joined.flags.writeable = False
        return joined

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range from disk, without waiting for it."""
        for index, low, high in self._steps(start, stop):
            self.parts[index].prefetch(low, high)

    def populate(self, start: int, stop: int) -> bool:
        """Make a range resident now."""
        done = [self.parts[index].populate(low, high) for index, low, high in self._steps(start, stop)]
        return all(done)  # every part, even where the system cannot for the first

    def release(self, start: int, stop: int) -> None:
        """Let go of a range's resident memory."""
        for index, low, high in self._steps(start, stop):
            self.parts[index].release(low, high)

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes | None:
        """Say which bytes of a mapped file a range is, if it is in one part alone, and of its dtype."""
        steps = list(self._steps(start, stop))
        if len(steps) != 1 or self.dtypes[steps[0][0]] != self.dtype:
            return None
        index, low, high = steps[0]
        return self.parts[index].mapped_bytes(low, high)

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading a range decodes: in all parts together."""
        stored = [part.decoding(0, 0) for part in self.parts]
        return combined((*stored, *(self.parts[i].decoding(low, high) for i, low, high in self._steps(start, stop))))

    def stored_objects(self) -> None:
        """Give none: what is stored are the parts."""

    def _steps(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range where parts end: each part's index, and a range of it that is not empty."""
        index = bisect_right(self.starts, start) - 1
        while start < stop:
            high = min(stop, self.starts[index + 1])
            yield index, start - self.starts[index], high - self.starts[index]
            start, index = high, index + 1


def joined(parts: Sequence[tuple[Source, DType]]) -> JoinedSource:
    """Put sources one after another; where their dtypes differ, all are read as float32, which is exact up to float64.

    Parameters
    ----------
    parts
        The sources that have elements, with their dtypes.

    """
    dtypes = tuple(dtype for _, dtype in parts)
    dtype = dtypes[0] if len({each.name for each in dtypes}) == 1 else DTYPES["F32"]
    starts = (0, *accumulate(source.length for source, _ in parts))
    return JoinedSource(tuple(source for source, _ in parts), dtypes, starts, dtype)
