"""A tensor with rows that are gathered from other tensors, the donors, or averaged, while it is read.

A run of consecutive rows of a donor is copied at once. Runs are copied in the order in which they lie in the donors,
window by window, and each window is released before the next is read. Rows that are scattered over a large file
therefore never make the whole file resident.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.io.dtypes import DTYPES, DType, to_numpy
from dovetail.io.source import Decoding, Source, checked_source, combined, out_of_range
from dovetail.io.sources.row_map import AVERAGE, MEAN, ZERO, RowMap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

WINDOW_BYTES: Final = 4 * 2**20
"""Most bytes of a donor that are read at a time."""

_GAP_BYTES: Final = 64 * 2**10
"""Rows of a donor that are at most this many bytes apart are read together, with what lies between them."""

_MEAN_BLOCK_BYTES: Final = 2**20  # must never change: the mean is summed block by block, so that its bits depend on it

_MOST_RUNS: Final = 2**13
"""Most runs that are sorted at a time."""

_RUN_BYTES: Final = 512
"""Upper limit of the memory that one run takes while runs are sorted."""

_Run = tuple[int, int, int, int]
"""A run of rows: its first element and one past the last, its donor, and the first element in the donor."""

_Step = tuple[int, int, int, int]
"""A part of a run: a donor, the first element in the donor, the first element in the gathered tensor, and a count."""


class _Mean:
    """The mean row, which is computed when it is first needed. It is not pickled: each process computes it."""

    __slots__ = ("lock", "row")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.row: NDArray[np.float32] | None = None

    def __reduce__(self) -> tuple[type[_Mean], tuple[()]]:
        return _Mean, ()


@checked_source
@dataclass(frozen=True, slots=True, eq=False)
class GatheredSource:
    """A tensor with rows that come from other tensors."""

    donors: tuple[Source, ...]
    """The tensors from which rows come; all have rows of `row_length` elements."""
    donor_dtypes: tuple[DType, ...]
    """The dtype of each donor."""
    row_length: int
    """Number of elements of a row, at least 1."""
    map: RowMap
    """For every row, the donor and the row in it."""
    dtype: DType
    """Dtype of the elements that `read` gives; float32 if any row is an average, or if the donors' dtypes differ."""
    _mean: _Mean = field(default_factory=_Mean, repr=False)

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.map.size * self.row_length

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return self.dtype.itemsize

    @property
    def copies(self) -> bool:
        """Always true, because rows are gathered."""
        return True

    @property
    def scratch_bytes(self) -> int:
        """Most memory that a read takes besides what it returns: a window of a donor, a list of runs, averaged rows."""
        row = self.row_length
        most = 0
        for donor in self.map.used:
            source, itemsize = self.donors[donor], self.donor_dtypes[donor].itemsize
            window = max(WINDOW_BYTES, row * itemsize) if self.map.averages else WINDOW_BYTES
            held = min(window, source.length * itemsize) * (2 if source.copies else 1)
            most = max(most, held + source.scratch_bytes)
        # The mean row takes a block of rows, and in float64 the sum, the sum of the block, and the quotient.
        mean = max(_MEAN_BLOCK_BYTES, 4 * row) + 24 * row if self.map.has_mean else 0
        lists = 2 if self.map.has_mean else 1  # the runs for the mean row are sorted while those of the range are held
        return most + mean + lists * _RUN_BYTES * min(len(self.map.starts), _MOST_RUNS)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of elements ``[start, stop)``.

        An average adds float32 values in the order of the row map. The mean row is summed in float64.

        Returns
        -------
        uint8[(stop - start) * itemsize]
            Read-only; it shares no memory with the donors.

        Raises
        ------
        CheckpointError
            If a donor cannot be read.
        IndexError
            If the range is not within the tensor.

        """
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        out = np.empty(stop - start, to_numpy(self.dtype))
        with np.errstate(over="ignore", invalid="ignore"):  # the kernels report what is not finite
            self._fill(start, stop, out)
        data: NDArray[np.uint8] = out.view(np.uint8)
        data.flags.writeable = False
        return data

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading the rows of a range from disk, except averages, without waiting for them."""
        for donor, low, high in self._spans(start, stop):
            self.donors[donor].prefetch(low, high)

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing, because `read` makes one window at a time resident."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Do nothing, because `read` releases every window that it has copied."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give None, because rows are copied."""

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say how much reading the rows of a range decodes, except averages."""
        stored = [self.donors[donor].decoding(0, 0) for donor in self.map.used]
        return combined(
            (*stored, *(self.donors[donor].decoding(low, high) for donor, low, high in self._spans(start, stop)))
        )

    def stored_objects(self) -> None:
        """Give None, because only the donors are stored."""

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Write the elements ``start:stop`` into `out`."""
        for low, high in self._stretches(start, stop):
            self._fill_stretch(low, high, out[low - start : high - start])

    def _fill_stretch(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Write the elements of a short range: zeros and averages first, then stored rows in the donors' order."""
        runs = self._runs(start, stop)
        for run_start, run_stop, donor, origin in runs:
            if donor == ZERO:
                out[run_start - start : run_stop - start] = 0
            elif donor < 0:
                self._fill_made(donor, origin, out[run_start - start : run_stop - start])
        for window in self._windows(runs):
            donor, low = window[0][:2]
            high = max(origin + count for _, origin, _, count in window)
            values = self._resident(donor, low, high)
            for _, origin, begin, count in window:
                out[begin - start : begin - start + count] = values[origin - low : origin - low + count]
            del values
            self.donors[donor].release(low, high)

    def _fill_made(self, kind: int, origin: int, target: NDArray[Any]) -> None:
        """Write averages, or the mean row; `origin` is the first element, counted from row 0 of `RowMap.rows`."""
        done, size = 0, self.row_length
        while done < target.size:
            row, column = divmod(origin + done, size)
            part = target[done : done + size - column]
            if kind == MEAN:
                part[:] = self._mean_row()[column : column + part.size]
            else:
                self._average(self.map.averages[row], column, part)
            done += part.size

    def _average(self, rows: tuple[tuple[int, int], ...], column: int, part: NDArray[np.float32]) -> None:
        """Write the average of some rows, from one column on, into a part of a row."""
        part[:] = 0
        for donor, row in rows:
            low = row * self.row_length + column
            part += self._resident(donor, low, low + part.size)
            self.donors[donor].release(low, low + part.size)
        part /= np.float32(len(rows))

    def _resident(self, donor: int, low: int, high: int) -> NDArray[Any]:
        """Read elements of a donor, which the caller releases afterwards."""
        source = self.donors[donor]
        source.populate(low, high)  # raises an error for pages that cannot be read, which else kill the process
        return source.read(low, high).view(to_numpy(self.donor_dtypes[donor]))

    def _mean_row(self) -> NDArray[np.float32]:
        """Give the mean of the first rows, which is computed only once."""
        with self._mean.lock:
            if self._mean.row is None:
                count, size = self.map.mean_rows, self.row_length
                total = np.zeros(size)
                step = max(1, _MEAN_BLOCK_BYTES // (4 * size))
                for first in range(0, count, step):
                    rows = min(step, count - first)
                    block = np.empty(rows * size, np.float32)
                    self._fill(first * size, (first + rows) * size, block)
                    total += block.reshape(rows, size).sum(axis=0, dtype=np.float64)
                self._mean.row = (total / count).astype(np.float32)
            return self._mean.row

    def _stretches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut a range into shorter ranges of at most about `_MOST_RUNS` runs, so that lists of runs stay small."""
        if start >= stop:
            return
        first, last = self._run_numbers(start, stop)
        low = start
        for number in range(first + _MOST_RUNS, last, _MOST_RUNS):
            high = int(self.map.starts[number]) * self.row_length
            yield low, high
            low = high
        yield low, stop

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield what is read for the stored rows of a range: each time a donor, and a range of its elements."""
        for low, high in self._stretches(start, stop):
            for window in self._windows(self._runs(low, high)):
                yield window[0][0], window[0][1], max(origin + count for _, origin, _, count in window)

    def _runs(self, start: int, stop: int) -> list[_Run]:
        """List the runs of a range, the first and the last of them cut to the range."""
        if start >= stop:
            return []
        size, (first, last) = self.row_length, self._run_numbers(start, stop)
        begins = [row * size for row in self.map.starts[first:last].tolist()]
        ends = [*begins[1:], self.length if last == len(self.map.starts) else int(self.map.starts[last]) * size]
        donors, rows = self.map.donors[first:last].tolist(), self.map.rows[first:last].tolist()
        found = []
        for run_start, run_stop, donor, row in zip(begins, ends, donors, rows, strict=True):
            begin = max(start, run_start)
            found.append((begin, min(stop, run_stop), donor, row * size + begin - run_start))
        return found

    def _run_numbers(self, start: int, stop: int) -> tuple[int, int]:
        """Give the numbers of the first run of a range, which must not be empty, and of one past the last."""
        first = int(np.searchsorted(self.map.starts, start // self.row_length, "right")) - 1
        last = int(np.searchsorted(self.map.starts, (stop - 1) // self.row_length, "right"))
        return first, last

    def _windows(self, runs: list[_Run]) -> Iterator[list[_Step]]:
        """Cut runs of stored rows into steps, sort them, and group those that are near each other in their donor.

        However the rows of a donor are strewn over the range, the donor is then read from front to back, so that each
        page or compressed chunk is read only once.
        """
        window: list[_Step] = []
        limit = low = high = gap = 0
        for step in sorted(self._steps(runs)):
            donor, origin, _, count = step
            near = bool(window) and donor == window[0][0] and origin - high <= gap and origin + count - low <= limit
            if window and not near:
                yield window
                window = []
            if not window:
                itemsize = self.donor_dtypes[donor].itemsize
                limit, low, high = WINDOW_BYTES // itemsize, origin, origin
                # A donor that must be decoded is decoded in long stretches; of a mapped one, gaps are not read.
                gap = limit if self.donors[donor].copies else _GAP_BYTES // itemsize
            window.append(step)
            high = max(high, origin + count)
        if window:
            yield window

    def _steps(self, runs: list[_Run]) -> Iterator[_Step]:
        """Cut runs of stored rows into steps no larger than a window."""
        for run_start, run_stop, donor, origin in runs:
            if donor >= 0:
                most = WINDOW_BYTES // self.donor_dtypes[donor].itemsize
                for offset in range(0, run_stop - run_start, most):
                    yield donor, origin + offset, run_start + offset, min(most, run_stop - run_start - offset)


def gathered_dtype(row_map: RowMap, donor_dtypes: tuple[DType, ...]) -> DType:
    """Choose the dtype of the rows: the donors' dtype if all have the same and no row is averaged, else float32.

    Float32 loses nothing, because no merge method computes with more precision.
    """
    kinds = {donor_dtypes[donor].name for donor in row_map.used}
    if row_map.made or len(kinds) > 1:
        return DTYPES["F32"]
    return DTYPES[kinds.pop()] if kinds else donor_dtypes[0]


__all__ = ["AVERAGE", "MEAN", "ZERO", "GatheredSource", "gathered_dtype"]
