"""From a chunk's stored bytes to float32, stretch by stretch, for programs that are not fused into one kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import ITEMSIZES, decode
from dovetail.engine.kernels.statistics import count_nonfinite
from dovetail.engine.kernels.task_vectors import subtract
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics

STRETCH = 1 << 16
"""Usual number of elements of a stretch: as much of a chunk as is decoded and merged at a time."""

ElementRange = tuple[int, int]
"""First element and one past the last."""

Floats = NDArray[np.float32]
Marks = NDArray[np.uint8]


def stretches(start: int, stop: int, step: int) -> Iterator[ElementRange]:
    """Cut ``start:stop`` at the multiples of `step`."""
    while start < stop:
        end = min(stop, (start // step + 1) * step)
        yield start, end
        start = end


def read_only(raw: Bytes) -> Bytes:
    """Make a read-only view, so that kernels are compiled for only one type of array, memory-mapped or not."""
    view = raw.view()
    view.flags.writeable = False
    return view


def elements(chunk: Chunk, raw: Bytes, code: int, low: int, high: int) -> Bytes:
    """Cut elements ``low:high`` of the tensor out of the window of a source."""
    offset, size = chunk.window_start, ITEMSIZES[code]
    return read_only(raw[(low - offset) * size : (high - offset) * size])


def stored(chunk: Chunk, codes: Sequence[int], low: int, high: int) -> tuple[Bytes, ...]:
    """Cut elements ``low:high`` of the tensor out of the windows of the base model and of the models."""
    assert chunk.base is not None
    sources = zip((chunk.base, *chunk.models), codes, strict=True)
    return tuple(elements(chunk, raw, code, low, high) for raw, code in sources)


class TaskVectors:
    """Decodes the task vectors of a chunk, part by part.

    Parameters
    ----------
    chunk
        The chunk; it must have a base model.
    codes
        Dtype codes of the base model's tensor and of the models'.
    size
        Most elements decoded at a time.

    """

    def __init__(self, chunk: Chunk, codes: Sequence[int], size: int) -> None:
        assert chunk.base is not None
        self.nonfinite = np.zeros(1 + len(chunk.models), np.int64)
        self._raw = [read_only(raw) for raw in (chunk.base, *chunk.models)]
        self._codes, self._offset = codes, chunk.window_start
        self._base, self._tau = np.empty(size, np.float32), np.empty(size, np.float32)
        self._low = 0
        self._inner: ElementRange = (0, 0)

    @staticmethod
    def scratch_bytes(size: int) -> int:
        """Compute the bytes of memory of an instance."""
        return 8 * size

    def begin(self, low: int, high: int, inner: ElementRange) -> None:
        """Decode elements ``low:high`` of the base model; from now on, count NaN and infinity in range `inner`."""
        self._low, self._inner = low, inner
        self._decode(0, low, high, self._base[: high - low])

    def base(self, low: int, high: int) -> Floats:
        """Give the base model's values of elements ``low:high``, which lie in the range that was begun."""
        return self._base[low - self._low : high - self._low]

    def tau(self, model: int, low: int, high: int) -> Floats:
        """Decode elements ``low:high`` of a model's task vector; the array is valid until the next call."""
        values = self._tau[: high - low]
        self._decode(model + 1, low, high, values)
        subtract(values, self.base(low, high))
        return values

    def _decode(self, source: int, low: int, high: int, out: Floats) -> None:
        decode(self._raw[source], self._codes[source], low - self._offset, high - self._offset, out)
        first, last = self._inner
        self.nonfinite[source] += count_nonfinite(out[first - low : last - low])


class Values:
    """Decodes all of a chunk's sources, part by part.

    Parameters
    ----------
    chunk
        The chunk; its base model, if any, is the first source.
    codes
        Dtype codes of the sources.
    size
        Most elements decoded at a time.

    """

    def __init__(self, chunk: Chunk, codes: Sequence[int], size: int) -> None:
        sources = chunk.models if chunk.base is None else (chunk.base, *chunk.models)
        self.nonfinite = np.zeros(len(sources), np.int64)
        self._raw = [read_only(raw) for raw in sources]
        self._codes, self._offset = codes, chunk.window_start
        self._values = np.empty((len(sources), size), np.float32)

    @staticmethod
    def scratch_bytes(sources: int, size: int) -> int:
        """Compute the bytes of memory of an instance."""
        return 4 * sources * size

    def load(self, low: int, high: int, inner: ElementRange) -> Floats:
        """Decode elements ``low:high``: float32[sources, high - low], valid until the next call.

        NaN and infinity are counted in range `inner`.
        """
        first, last = inner[0] - low, inner[1] - low
        for source, raw in enumerate(self._raw):
            line = self._values[source, : high - low]
            decode(raw, self._codes[source], low - self._offset, high - self._offset, line)
            self.nonfinite[source] += count_nonfinite(line[first:last])
        return self._values[:, : high - low]

    def load_task_vectors(self, low: int, high: int, inner: ElementRange) -> tuple[Floats, Floats]:
        """Decode elements ``low:high`` into the base model's values and, float32[models, high - low], task vectors."""
        loaded = self.load(low, high, inner)
        for vector in loaded[1:]:
            subtract(vector, loaded[0])
        return loaded[0], loaded[1:]


def blocks(chunk: Chunk, length: int, block: int) -> Iterator[ElementRange]:
    """List the blocks, runs of `block` elements counted from 0, that begin in a chunk; the last may end beyond it.

    Every block of a tensor begins in exactly one chunk, so that sums over blocks do not depend on the chunks.
    """
    for start in range(-(-chunk.start // block) * block, chunk.stop, block):
        yield start, min(length, start + block)


def block_count(elements: int, block: int) -> int:
    """Give the most blocks of so many elements that can begin in a chunk, wherever the chunk begins."""
    return -(-elements // block)


Totals = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""What kernels that merge task vectors count and sum: see `dovetail.engine.kernels.sparsified.sparsified_sum`."""


def no_totals(models: int) -> Totals:
    """Begin with nothing."""
    return np.zeros(models + 1, np.int64), np.zeros((models, models), np.int64), np.zeros(2 * models + 1)


def statistics_of(totals: Totals, overflowed: int) -> ChunkStatistics:
    """Make the statistics of a chunk of what kernels have counted and summed."""
    nonfinite, kept, squares = totals
    models = len(kept)
    return ChunkStatistics(
        kept=kept,
        delta_square=squares[:models],
        kept_square=squares[models : 2 * models],
        merged_square=float(squares[2 * models]),
        overflowed=overflowed,
        nonfinite=nonfinite,
    )


def plain_statistics(models: int, overflowed: int, nonfinite: NDArray[np.int64]) -> ChunkStatistics:
    """Make the statistics of a chunk for a method without task vectors."""
    return ChunkStatistics(
        kept=np.zeros((models, models), np.int64),
        delta_square=np.zeros(models),
        kept_square=np.zeros(models),
        merged_square=0.0,
        overflowed=overflowed,
        nonfinite=nonfinite,
    )
