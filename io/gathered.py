"""A tensor whose rows are gathered from other tensors while it is read: permuted, added, averaged.

Rows are copied run by run, and a run of consecutive rows is one contiguous copy. What is read of a donor at a time is
bounded, and let go of before the next is read, so that rows scattered over a large file never make it resident.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.io.dtypes import DTYPES, DType, to_numpy
from dovetail.io.rowmap import AVERAGE, MEAN, ZERO, RowMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dovetail.io.source import Source

WINDOW_BYTES: Final = 4 * 2**20
"""Most that is read of a donor at a time."""

_GAP_BYTES: Final = 64 * 2**10
"""Ranges of a file that are nearer to each other than this are prefetched as one."""

_MEAN_BLOCK_BYTES: Final = 2**20  # fixed: the mean is summed block by block, and must not depend on anything


_Run = tuple[int, int, int, int]
"""First element of a run and one past the last, its donor, and the first element there."""


class _Mean:
    """A mean row, computed when it is first asked for. Not pickled: whoever needs it computes it."""

    __slots__ = ("lock", "row")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.row: NDArray[np.float32] | None = None

    def __reduce__(self) -> tuple[type[_Mean], tuple[()]]:
        return _Mean, ()


@dataclass(frozen=True, slots=True, eq=False)
class GatheredSource:
    """A tensor's elements as rows of other tensors (a `dovetail.io.source.Source`)."""

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

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of elements ``[start, stop)``.

        Averages are of float32 values, added in their order in the row map. The mean row is summed in float64.

        Returns
        -------
        uint8[(stop - start) * itemsize]
            Read-only, and the caller's own.

        """
        out = np.empty(stop - start, to_numpy(self.dtype))
        with np.errstate(over="ignore", invalid="ignore"):  # the kernels report what is not finite
            self._fill(start, stop, out)
        data: NDArray[np.uint8] = out.view(np.uint8)
        data.flags.writeable = False
        return data

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading the rows of a range from disk, without waiting for them; averages are left out."""
        for donor, first, last in self._ranges(start, stop):
            self.donors[donor].prefetch(first, last)

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing: `read` makes resident what it copies, bit by bit."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Do nothing: `read` has let go of what it copied."""

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Write the elements of a range, run by run."""
        runs = self._runs(start, stop)
        windows = _Windows(self, _spans(runs))
        for run_start, run_stop, donor, origin in runs:
            piece = out[run_start - start : run_stop - start]
            if donor >= 0:
                windows.copy(donor, origin, piece)
            elif donor == ZERO:
                piece[:] = 0
            else:
                self._fill_made(windows, donor, origin, piece)
        windows.close()

    def _fill_made(self, windows: _Windows, kind: int, origin: int, piece: NDArray[Any]) -> None:
        """Write averaged rows, or the mean row: `origin` counts elements of the run's kind."""
        done, size = 0, self.row_length
        while done < piece.size:
            row, column = divmod(origin + done, size)
            part = piece[done : done + size - column]
            if kind == MEAN:
                part[:] = self._mean_row()[column : column + part.size]
            else:
                self._average(windows, self.map.averages[row], column, part)
            done += part.size

    def _average(
        self, windows: _Windows, rows: tuple[tuple[int, int], ...], column: int, part: NDArray[np.float32]
    ) -> None:
        """Write the average of some rows' elements, from a column on."""
        part[:] = 0
        other = np.empty_like(part)
        for donor, row in rows:
            windows.copy(donor, row * self.row_length + column, other)
            part += other
        part /= np.float32(len(rows))

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

    def _ranges(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Give the donors' elements that a range needs, averages left out: near ones as one range, in order."""
        found = [(d, origin, origin + end - begin) for begin, end, d, origin in self._runs(start, stop) if d >= 0]
        merged: list[tuple[int, int, int]] = []
        for donor, first, last in sorted(found):
            gap = _GAP_BYTES // self.donor_dtypes[donor].itemsize
            if merged and merged[-1][0] == donor and first <= merged[-1][2] + gap:
                merged[-1] = (donor, merged[-1][1], max(last, merged[-1][2]))
            else:
                merged.append((donor, first, last))
        return merged


def _spans(runs: list[_Run]) -> dict[int, tuple[int, int]]:
    """Give the elements from the first to the last needed of every donor."""
    spans: dict[int, tuple[int, int]] = {}
    for begin, end, donor, origin in runs:
        low, high = spans.get(donor, (origin, origin))
        spans[donor] = min(low, origin), max(high, origin + end - begin)
    return spans


class _Windows:
    """What is resident of the donors while a range is read: one window of each.

    Parameters
    ----------
    source
        The tensor that is read.
    spans
        From the first to the last element needed of each donor; where that is little, it is read as one.

    """

    def __init__(self, source: GatheredSource, spans: dict[int, tuple[int, int]]) -> None:
        self._source, self._spans = source, spans
        self._open: dict[int, tuple[int, int, NDArray[Any]]] = {}

    def copy(self, donor: int, start: int, out: NDArray[Any]) -> None:
        """Write elements of a donor, from `start` on, converted if need be."""
        done, most = 0, max(1, WINDOW_BYTES // self._source.donor_dtypes[donor].itemsize)
        while done < out.size:
            count = min(most, out.size - done)
            out[done : done + count] = self._view(donor, start + done, start + done + count)
            done += count

    def close(self) -> None:
        """Let go of everything."""
        for donor in list(self._open):
            self._release(donor)

    def _view(self, donor: int, start: int, stop: int) -> NDArray[Any]:
        if donor in self._open:
            low, high, values = self._open[donor]
            if low <= start and stop <= high:
                return values[start - low : stop - low]
            del values
            self._release(donor)
        low, high, values = self._open[donor] = self._read(donor, start, stop)
        return values[start - low : stop - low]

    def _read(self, donor: int, start: int, stop: int) -> tuple[int, int, NDArray[Any]]:
        inner, dtype = self._source.donors[donor], self._source.donor_dtypes[donor]
        low, high = self._spans.get(donor, (start, stop))
        if (high - low) * dtype.itemsize > WINDOW_BYTES or not (low <= start and stop <= high):
            low, high = start, stop
        inner.populate(low, high)  # or else pages that cannot be read would kill the process
        return low, high, inner.read(low, high).view(to_numpy(dtype))

    def _release(self, donor: int) -> None:
        low, high, values = self._open.pop(donor)
        del values
        self._source.donors[donor].release(low, high)


def gathered_dtype(row_map: RowMap, donor_dtypes: tuple[DType, ...]) -> DType:
    """Choose the dtype in which rows are read: the donors' own if they share one and no row is averaged, else float32.

    No merge method computes in more than float32, so nothing is lost.
    """
    kinds = {donor_dtypes[donor].name for donor in row_map.used}
    if row_map.made or len(kinds) > 1:
        return DTYPES["F32"]
    return DTYPES[kinds.pop()] if kinds else donor_dtypes[0]


__all__ = ["AVERAGE", "MEAN", "ZERO", "GatheredSource", "gathered_dtype"]
