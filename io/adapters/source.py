"""Tensors with an adapter applied, computed range by range while they are read: nothing of full size is ever made.

All arithmetic is float32, in an order that does not depend on the range: an element has the same bits however the
tensor is cut. What is read is float32 too. (peft, and mergekit through it, round the changed weights to the model's own
dtype before anything else is done with them; here they are rounded once, when the output is stored.)
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.adapters.changes import Change, Matrix, multiply_lines
from dovetail.io.dtypes import DType
from dovetail.io.source import Source, read_scratch_bytes
from dovetail.io.sources.floats import decode_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE_ELEMENTS: Final = 1 << 18  # read from the model at a time, so that a source that copies holds little

_KEPT_NORMS: Final = 32  # tensors whose column norms a process remembers; their tasks follow one another


@dataclass(frozen=True, slots=True)
class ChangedSource:
    """A tensor with a change applied (a `dovetail.io.source.Source` of float32 elements)."""

    base: Source
    """The tensor without it."""
    dtype: DType
    """Its dtype as stored."""
    change: Change
    """What is done to it."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.base.length

    @property
    def itemsize(self) -> int:
        """Size of a float32."""
        return 4

    @property
    def copies(self) -> bool:
        """Whether `read` makes an array of its own: always."""
        return True

    @property
    def scratch_bytes(self) -> int:
        """Most memory of a `read` beyond twice what it returns, which covers the pages of up to float32 elements."""
        piece = min(self.length, _PIECE_ELEMENTS) * self.dtype.itemsize * (2 if self.base.copies else 1)
        return read_scratch_bytes(self.base) + piece + self.change.scratch_bytes

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        """Compute elements ``[start, stop)`` into a new array."""
        values = np.empty(stop - start, np.float32)
        for low in range(start, stop, _PIECE_ELEMENTS):
            high = min(stop, low + _PIECE_ELEMENTS)
            self.base.populate(low, high)
            decode_into(self.base.read(low, high), self.dtype, values[low - start : high - start])
            if self._releases:
                self.base.release(low, high)
        with np.errstate(all="ignore"):  # NaN and infinity are found later, as in any input
            self.change.apply(values, start)
        return values

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Compute elements ``[start, stop)`` and return their bytes, read-only."""
        return _read_only(self.values(start, stop))

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading the model's part of a range from disk, without waiting for it."""
        self.base.prefetch(start, stop)

    def populate(self, start: int, stop: int) -> bool:
        """Make the model's part of a range resident, where that is no more than what `read` returns."""
        return True if self._releases else self.base.populate(start, stop)

    def release(self, start: int, stop: int) -> None:
        """Let go of the model's part of a range."""
        self.base.release(start, stop)

    @property
    def _releases(self) -> bool:
        """Whether pages are let go of while reading: those of float64 are more than a reader of float32 counts on."""
        return self.dtype.itemsize > self.itemsize


@dataclass(frozen=True, slots=True)
class DoraSource:
    """DoRA: ``magnitude / norm * (W + scale * (left @ right))``, the norms being those of the sum's lines.

    Lines are rows, and then every read computes whole rows; or columns, where weights are stored transposed, and then
    the first read of a process goes through the whole tensor, once, and keeps one factor a column.
    """

    inner: ChangedSource
    """The sum."""
    columns: int
    """Elements of a row."""
    magnitude: Matrix
    """One number a line."""
    by_column: bool
    """Whether lines are columns."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.inner.length

    @property
    def itemsize(self) -> int:
        """Size of a float32."""
        return 4

    @property
    def copies(self) -> bool:
        """Whether `read` makes an array of its own: always."""
        return True

    @property
    def scratch_bytes(self) -> int:
        """Most memory of a `read` beyond twice what it returns."""
        lines = 24 * self.magnitude.columns  # totals, norms, factors
        rows = max(self.columns, _PIECE_ELEMENTS) if self.by_column else 2 * self.columns
        return self.inner.scratch_bytes + self.magnitude.nbytes + lines + rows * (4 + self.inner.dtype.itemsize)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Compute elements ``[start, stop)`` and return their bytes, read-only."""
        if start == stop:
            return _read_only(np.empty(0, np.float32))
        if self.by_column:
            values, factors = self.inner.values(start, stop), _column_factors(self)
            with np.errstate(all="ignore"):  # as in `ChangedSource`
                multiply_lines(values, start, self.columns, factors, by_column=True)
            return _read_only(values)
        low, high = start // self.columns, -(-stop // self.columns)
        values = self.inner.values(low * self.columns, high * self.columns)
        with np.errstate(all="ignore"):
            multiply_lines(values, 0, self.columns, self._row_factors(values, low, high), by_column=False)
        return _read_only(values[start - low * self.columns : stop - low * self.columns])

    def _row_factors(self, values: NDArray[np.float32], low: int, high: int) -> NDArray[np.float32]:
        from dovetail.io.adapters.kernels import row_norms

        norms = np.empty(high - low, np.float32)
        row_norms(values, norms)
        factors = _quotients(self.magnitude.vector(low, high), norms)
        self.magnitude.release()
        return factors

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading the model's part of a range from disk, without waiting for it."""
        self.inner.prefetch(start, stop)

    def populate(self, start: int, stop: int) -> bool:
        """Make the model's part of a range resident."""
        return self.inner.populate(start, stop)

    def release(self, start: int, stop: int) -> None:
        """Let go of the model's part of a range, and of the rows that it cuts."""
        low, high = start // self.columns * self.columns, min(self.length, -(-stop // self.columns) * self.columns)
        self.inner.release(low, high)


_factors: OrderedDict[DoraSource, NDArray[np.float32]] = OrderedDict()
_factors_lock = threading.Lock()


def _reset() -> None:
    """Begin anew in a process that was forked: another thread of the parent may hold the lock, and is not here."""
    global _factors_lock
    _factors_lock = threading.Lock()


os.register_at_fork(after_in_child=_reset)


def _column_factors(source: DoraSource) -> NDArray[np.float32]:
    """Give one factor a column, from this process's cache, going through the tensor if needed."""
    from dovetail.io.adapters.kernels import add_column_squares

    with _factors_lock:  # others wait: each would do the same
        if (found := _factors.get(source)) is not None:
            _factors.move_to_end(source)
            return found
        totals = np.zeros(source.columns, np.float64)
        step = max(1, _PIECE_ELEMENTS // source.columns) * source.columns
        for low in range(0, source.length, step):
            high = min(source.length, low + step)
            add_column_squares(source.inner.values(low, high), totals)
            source.inner.release(low, high)
        factors = _quotients(source.magnitude.vector(0, source.columns), np.sqrt(totals).astype(np.float32))
        source.magnitude.release()
        _factors[source] = factors
        while len(_factors) > _KEPT_NORMS:
            _factors.popitem(last=False)
        return factors


def _quotients(magnitudes: NDArray[np.float32], norms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide; a line of zeros gives NaN or infinity, as in peft, which is found like any other in an input."""
    with np.errstate(all="ignore"):
        return magnitudes / norms


def _read_only(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    raw = values.view(np.uint8)
    raw.flags.writeable = False
    return raw
