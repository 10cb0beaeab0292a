"""A tensor whose rows are gathered from other tensors while it is read: permuted, added, averaged.

A run of consecutive rows is one contiguous copy. Runs are copied in the order of their donors' elements, window by
window, and a window is let go of before the next is read: rows scattered over a large file never make it resident.
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
"""Most that is read of a donor at a time."""

_GAP_BYTES: Final = 64 * 2**10
"""Rows of a file that are nearer to each other than this are read as one."""

_MEAN_BLOCK_BYTES: Final = 2**20  # fixed: the mean is summed block by block, and must not depend on anything

_MOST_RUNS: Final = 2**13
"""Runs that are put in the order of the donors at a time."""

_RUN_BYTES: Final = 512
"""More than one run takes in memory while it is put in order."""

_Run = tuple[int, int, int, int]
"""First element of a run and one past the last, its donor, and the first element there."""

_Piece = tuple[int, int, int, int]
"""A donor, the first element there, the first element of the gathered tensor, and how many."""


class _Mean:
    """A mean row, computed when it is first asked for. Not pickled: whoever needs it computes it."""

    __slots__ = ("lock", "row")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.row: NDArray[np.float32] | None = None

    def __reduce__(self) -> tuple[type[_Mean], tuple[()]]:
        return _Mean, ()


@checked_source
@dataclass(frozen=True, slots=True, eq=False)
class GatheredSource:
    """A tensor's elements as rows of other tensors."""

    donors: tuple[Source, ...]
    """The tensors that rows come from, all with rows of `row_length`."""
    donor_dtypes: tuple[DType, ...]
    """Their dtypes."""
    row_length: int
    """Elements of a row, at least 1."""
    map: RowMap
    """Which row of which donor every row is."""
    dtype: DType
    """Dtype of what is read; float32 wherever a row is made by averaging or a donor has another dtype."""
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
        """Whether `read` has to copy: it does."""
        return True

    @property
    def scratch_bytes(self) -> int:
        """Most memory that a read takes beyond what it returns: a window of a donor, the list of runs, made rows."""
        row = self.row_length
        most = 0
        for donor in self.map.used:
            source, itemsize = self.donors[donor], self.donor_dtypes[donor].itemsize
            window = max(WINDOW_BYTES, row * itemsize) if self.map.averages else WINDOW_BYTES
            held = min(window, source.length * itemsize) * (2 if source.copies else 1)
            most = max(most, held + source.scratch_bytes)
        # The mean row: its block, and its sum, the block's and the quotient in float64.
        mean = max(_MEAN_BLOCK_BYTES, 4 * row) + 24 * row if self.map.has_mean else 0
        lists = 2 if self.map.has_mean else 1  # the first rows' runs are put in order while the range's are
        return most + mean + lists * _RUN_BYTES * min(len(self.map.starts), _MOST_RUNS)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of elements ``[start, stop)``.

        Averages are of float32 values, added in their order in the row map. The mean row is summed in float64.

        Returns
        -------
        uint8[(stop - start) * itemsize]
            Read-only, and the caller's own.

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
        """Start reading the rows of a range from disk, without waiting for them; averages are left out."""
        for donor, low, high in self._spans(start, stop):
            self.donors[donor].prefetch(low, high)

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing: `read` makes resident what it copies, bit by bit."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Do nothing: `read` has let go of what it copied."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give none: rows are copied."""

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading the rows of a range decodes, averages left out."""
        stored = [self.donors[donor].decoding(0, 0) for donor in self.map.used]
        return combined(
            (*stored, *(self.donors[donor].decoding(low, high) for donor, low, high in self._spans(start, stop)))
        )

    def stored_objects(self) -> None:
        """Give none: what is stored are the donors."""

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Write the elements of a range."""
        for low, high in self._stretches(start, stop):
            self._fill_stretch(low, high, out[low - start : high - start])

    def _fill_stretch(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Write the elements of a range: what is made row by row, then what is stored in the order of the donors."""
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

    def _fill_made(self, kind: int, origin: int, piece: NDArray[Any]) -> None:
        """Write averaged rows, or the mean row: `origin` counts elements of the run's kind."""
        done, size = 0, self.row_length
        while done < piece.size:
            row, column = divmod(origin + done, size)
            part = piece[done : done + size - column]
            if kind == MEAN:
                part[:] = self._mean_row()[column : column + part.size]
            else:
                self._average(self.map.averages[row], column, part)
            done += part.size

    def _average(self, rows: tuple[tuple[int, int], ...], column: int, part: NDArray[np.float32]) -> None:
        """Write the average of some rows' elements, from a column on."""
        part[:] = 0
        for donor, row in rows:
            low = row * self.row_length + column
            part += self._resident(donor, low, low + part.size)
            self.donors[donor].release(low, low + part.size)
        part /= np.float32(len(rows))

    def _resident(self, donor: int, low: int, high: int) -> NDArray[Any]:
        """Read a few elements of a donor; to be released."""
        source = self.donors[donor]
        source.populate(low, high)  # or else pages that cannot be read would kill the process
        return source.read(low, high).view(to_numpy(self.donor_dtypes[donor]))

    def _mean_row(self) -> NDArray[np.float32]:
        """Give the mean of the first rows, computed once."""
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
        """Cut a range into ranges of so few runs that a list of them is small."""
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
        """Give what is read of the donors for the stored rows of a range: a donor, and a range of it."""
        for low, high in self._stretches(start, stop):
            for window in self._windows(self._runs(low, high)):
                yield window[0][0], window[0][1], max(origin + count for _, origin, _, count in window)

    def _runs(self, start: int, stop: int) -> list[_Run]:
        """Give every run in a range: its elements, its donor, and the first element there."""
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
        """Give the first run of a range that is not empty, and one past the last."""
        first = int(np.searchsorted(self.map.starts, start // self.row_length, "right")) - 1
        last = int(np.searchsorted(self.map.starts, (stop - 1) // self.row_length, "right"))
        return first, last

    def _windows(self, runs: list[_Run]) -> Iterator[list[_Piece]]:
        """Part runs of stored rows into pieces, and group those that are near each other in their donor.

        Donors are then read from front to back, however their rows are strewn over the range: each page of a file, or
        compressed chunk, is needed just once.
        """
        window: list[_Piece] = []
        limit = low = high = gap = 0
        for piece in sorted(self._pieces(runs)):
            donor, origin, _, count = piece
            near = bool(window) and donor == window[0][0] and origin - high <= gap and origin + count - low <= limit
            if window and not near:
                yield window
                window = []
            if not window:
                itemsize = self.donor_dtypes[donor].itemsize
                limit, low, high = WINDOW_BYTES // itemsize, origin, origin
                # What has to be decoded is decoded in stretches; of what is only mapped, nothing more than needed.
                gap = limit if self.donors[donor].copies else _GAP_BYTES // itemsize
            window.append(piece)
            high = max(high, origin + count)
        if window:
            yield window

    def _pieces(self, runs: list[_Run]) -> Iterator[_Piece]:
        """Cut runs of stored rows into pieces no larger than a window."""
        for run_start, run_stop, donor, origin in runs:
            if donor >= 0:
                most = WINDOW_BYTES // self.donor_dtypes[donor].itemsize
                for offset in range(0, run_stop - run_start, most):
                    yield donor, origin + offset, run_start + offset, min(most, run_stop - run_start - offset)


def gathered_dtype(row_map: RowMap, donor_dtypes: tuple[DType, ...]) -> DType:
    """Choose the dtype in which rows are read: the donors' own if they share one and no row is averaged, else float32.

    No merge method computes in more than float32, so nothing is lost.
    """
    kinds = {donor_dtypes[donor].name for donor in row_map.used}
    if row_map.made or len(kinds) > 1:
        return DTYPES["F32"]
    return DTYPES[kinds.pop()] if kinds else donor_dtypes[0]


__all__ = ["AVERAGE", "MEAN", "ZERO", "GatheredSource", "gathered_dtype"]
