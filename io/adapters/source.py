"""Tensors with an adapter applied, computed range by range as they are read, so that no full-size tensor is made.

All arithmetic is float32, in an order that does not depend on the range, so that an element has the same bits however
the tensor is cut. The elements that are read are float32 as well. (peft, and mergekit through it, first round the
changed weights to the dtype of the model; here they are rounded once, when the output is stored.)
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.adapters.changes import Change
from dovetail.io.adapters.matrices import Matrix, multiply_lines
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.dtypes import DTYPES, DType
from dovetail.io.source import Decoding, Source, checked_source, out_of_range
from dovetail.io.sources.floats import ComputedFloats, decode_into, read_only_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEP_ELEMENTS: Final = 1 << 18  # read from the model at a time, to bound the memory of a source that copies

_KEPT_NORMS: Final = 32  # tensors for which a process keeps column factors; the tasks of a tensor follow each other


@checked_source
@dataclass(frozen=True, slots=True)
class ChangedSource(ComputedFloats):
    """A tensor with a change applied, as float32 elements."""

    base: Source
    """The tensor without the change."""
    dtype: DType
    """Dtype in which that tensor is stored."""
    change: Change
    """The change."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.base.length

    @property
    def scratch_bytes(self) -> int:
        """Most memory of a `read` beyond twice what it returns: a step of the model's tensor, and the change."""
        step = min(self.length, _STEP_ELEMENTS) * self.dtype.itemsize * (2 if self.base.copies else 1)
        return self.base.scratch_bytes + step + self.change.scratch_bytes

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        """Compute elements ``[start, stop)`` into a new array."""
        values = np.empty(stop - start, np.float32)
        for low, high in _steps(start, stop):
            self.base.populate(low, high)
            decode_into(self.base.read(low, high), self.dtype, values[low - start : high - start])
            self.base.release(low, high)
        with np.errstate(all="ignore"):  # NaN and infinity are found later, as in any input
            self.change.apply(values, start)
        return values

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Compute elements ``[start, stop)`` and return their bytes, read-only."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        return read_only_bytes(self.values(start, stop))

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading the model's part of a range, in the steps in which `read` will want it."""
        for low, high in _steps(start, stop):
            self.base.prefetch(low, high)

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing: `read` makes resident what it changes, step by step."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Let go of steps that were prefetched and not read; `read` has let go of the others."""
        for low, high in _steps(start, stop):
            self.base.release(low, high)

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading the model's part of a range decodes."""
        return self.base.decoding(start, stop)

    def stored_objects(self) -> None:
        """Give none: what is stored is the model's tensor and the adapter's."""


def changed_tensor(info: TensorInfo, change: Change) -> TensorInfo:
    """Make the description of a tensor with a change applied."""
    return computed_tensor(info, ChangedSource(info.source, info.dtype, change))


def computed_tensor(info: TensorInfo, source: Source) -> TensorInfo:
    """Make the description of a tensor that is read from another source, as float32."""
    return info._replace(dtype=DTYPES["F32"], source=source, own_dtype=info.output_dtype)


@checked_source
@dataclass(frozen=True, slots=True)
class DoraSource(ComputedFloats):
    """DoRA: ``magnitude / norm * (W + scale * (left @ right))``, with the norms of the lines of that sum.

    https://arxiv.org/abs/2402.09353, equation 5. Usually the lines are rows, and every read computes whole rows. Where
    weights are stored transposed, the lines are columns, and the first read in a process goes through the whole tensor
    once and keeps a factor for each column.
    """

    inner: ChangedSource
    """The sum ``W + scale * (left @ right)``."""
    columns: int
    """Elements of a row."""
    magnitude: Matrix
    """The magnitude of each line."""
    by_column: bool
    """Whether lines are columns."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.inner.length

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `read` takes beyond twice its result."""
        lines = 24 * self.magnitude.columns  # totals, norms, factors
        rows = max(self.columns, _STEP_ELEMENTS) if self.by_column else 2 * self.columns
        return self.inner.scratch_bytes + self.magnitude.nbytes + lines + rows * (4 + self.inner.dtype.itemsize)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Compute elements ``[start, stop)`` and return their bytes, read-only."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        if start == stop:
            return read_only_bytes(np.empty(0, np.float32))
        if self.by_column:
            values, factors = self.inner.values(start, stop), _column_factors(self)
            with np.errstate(all="ignore"):  # as in `ChangedSource`
                multiply_lines(values, start, self.columns, factors, by_column=True)
            return read_only_bytes(values)
        low, high = self._needed(start, stop)
        values = self.inner.values(low, high)
        factors = self._row_factors(values, low // self.columns, high // self.columns)
        with np.errstate(all="ignore"):
            multiply_lines(values, 0, self.columns, factors, by_column=False)
        return read_only_bytes(values[start - low : stop - low])

    def _row_factors(self, values: NDArray[np.float32], low: int, high: int) -> NDArray[np.float32]:
        from dovetail.io.adapters.kernels import row_norms

        norms = np.empty(high - low, np.float32)
        row_norms(values, norms)
        factors = _quotients(self.magnitude.vector(low, high), norms)
        self.magnitude.release()
        return factors

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading the model's part of a range, in the steps in which `read` will want it."""
        self.inner.prefetch(*self._needed(start, stop))

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing: `read` makes resident what it changes, step by step."""
        return True

    def release(self, start: int, stop: int) -> None:
        """Let go of steps that were prefetched and not read; `read` has let go of the others."""
        self.inner.release(*self._needed(start, stop))

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading the model's part of a range decodes."""
        return self.inner.decoding(*self._needed(start, stop))

    def stored_objects(self) -> None:
        """Give none: what is stored is the model's tensor and the adapter's."""

    def _needed(self, start: int, stop: int) -> tuple[int, int]:
        """Give the range of the sum that a range needs: where lines are rows, whole ones."""
        if self.by_column or start == stop:
            return start, stop
        return start // self.columns * self.columns, min(self.length, -(-stop // self.columns) * self.columns)


_factors: OrderedDict[DoraSource, NDArray[np.float32]] = OrderedDict()
_factors_lock = threading.Lock()


def _reset() -> None:
    """Begin anew in a process that was forked: another thread of the parent may hold the lock, and is not here."""
    global _factors_lock
    _factors_lock = threading.Lock()


os.register_at_fork(after_in_child=_reset)


def _column_factors(source: DoraSource) -> NDArray[np.float32]:
    """Give the factors of the columns, which each process computes once by going through the whole tensor."""
    from dovetail.io.adapters.kernels import add_column_squares

    with _factors_lock:  # other threads wait, because each would compute the same
        if (found := _factors.get(source)) is not None:
            _factors.move_to_end(source)
            return found
        totals = np.zeros(source.columns, np.float64)
        step = max(1, _STEP_ELEMENTS // source.columns) * source.columns
        for low in range(0, source.length, step):
            high = min(source.length, low + step)
            add_column_squares(source.inner.values(low, high), totals)
        factors = _quotients(source.magnitude.vector(0, source.columns), np.sqrt(totals).astype(np.float32))
        source.magnitude.release()
        _factors[source] = factors
        while len(_factors) > _KEPT_NORMS:
            _factors.popitem(last=False)
        return factors


def _steps(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a range into what is read of the model at a time."""
    return ((low, min(stop, low + _STEP_ELEMENTS)) for low in range(start, stop, _STEP_ELEMENTS))


def _quotients(magnitudes: NDArray[np.float32], norms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide magnitudes by norms; a line of zeros gives NaN or infinity, as in peft, which are counted later."""
    with np.errstate(all="ignore"):
        return magnitudes / norms
