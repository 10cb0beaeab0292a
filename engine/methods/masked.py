"""Merging task vectors of which each model keeps a part: what programs that select elements have in common.

A chunk is merged piece by piece, so that working memory does not grow with the chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.consensus import add_change, add_kept, add_signed, elect, keep_masked
from dovetail.engine.kernels.convert import ITEMSIZES, decode, encode
from dovetail.engine.kernels.general import subtract
from dovetail.engine.kernels.statistics import count_nonfinite, count_pairs, sum_squares
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics

PIECE = 1 << 16
"""Usual number of elements of a piece."""

Range = tuple[int, int]
"""First element and one past the last."""

Floats = NDArray[np.float32]
Marks = NDArray[np.uint8]


def pieces(start: int, stop: int, step: int) -> Iterator[Range]:
    """Cut ``start:stop`` at the multiples of `step`."""
    while start < stop:
        end = min(stop, (start // step + 1) * step)
        yield start, end
        start = end


def read_only(raw: Bytes) -> Bytes:
    """Give a read-only view, so that kernels are compiled for one type of array, memory-mapped or not."""
    view = raw.view()
    view.flags.writeable = False
    return view


def elements(chunk: Chunk, raw: Bytes, code: int, low: int, high: int) -> Bytes:
    """Cut a source's window to elements ``low:high`` of the tensor."""
    offset, size = chunk.window_start, ITEMSIZES[code]
    return read_only(raw[(low - offset) * size : (high - offset) * size])


class TaskVectors:
    """Decodes a chunk's sources, part by part.

    Parameters
    ----------
    chunk
        The chunk; it has a base model.
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
        self._inner: Range = (0, 0)

    @staticmethod
    def scratch_bytes(size: int) -> int:
        """Memory of an instance."""
        return 8 * size

    def begin(self, low: int, high: int, inner: Range) -> None:
        """Go to elements ``low:high``; NaN and infinity are counted among the `inner` ones."""
        self._low, self._inner = low, inner
        self._decode(0, low, high, self._base[: high - low])

    def base(self, low: int, high: int) -> Floats:
        """Give the base model's values."""
        return self._base[low - self._low : high - self._low]

    def tau(self, model: int, low: int, high: int) -> Floats:
        """Give a model's task vector, valid until the next call."""
        values = self._tau[: high - low]
        self._decode(model + 1, low, high, values)
        subtract(values, self.base(low, high))
        return values

    def _decode(self, source: int, low: int, high: int, out: Floats) -> None:
        decode(self._raw[source], self._codes[source], low - self._offset, high - self._offset, out)
        first, last = self._inner
        self.nonfinite[source] += count_nonfinite(out[first - low : last - low])


class MaskedSum:
    """Merges one piece after another and gathers the chunk's statistics.

    Parameters
    ----------
    vectors
        The task vectors; the statistics take their counts of NaN and infinity.
    weights
        The models' weights.
    ties
        Whether elements kept by several models are merged by sign election instead of a sum.
    size
        Most elements of a piece.

    """

    def __init__(self, vectors: TaskVectors, weights: Sequence[float], ties: bool, size: int) -> None:
        count = len(weights)
        self.statistics = ChunkStatistics(
            kept=np.zeros((count, count), np.int64),
            delta_square=np.zeros(count),
            kept_square=np.zeros(count),
            merged_square=0.0,
            nonfinite=vectors.nonfinite,
        )
        self._weights = np.asarray(weights, np.float32)
        self._ties = ties
        self._size = 0
        self._masks = np.empty((count, size), np.uint8)
        self._kept = np.empty(size, np.float32)
        self._delta = np.empty(size, np.float32)
        self._sums = np.empty((3, size if ties else 0), np.float32)
        self._counts = np.empty((3, size if ties else 0), np.uint16)

    @staticmethod
    def scratch_bytes(models: int, ties: bool, size: int) -> int:
        """Memory of an instance."""
        return size * (models + 8 + (18 if ties else 0))

    def begin(self, size: int) -> None:
        """Start a piece of `size` elements."""
        self._size = size
        self._delta[:size] = 0
        self._sums[:, :size] = 0
        self._counts[:, :size] = 0

    def add(self, model: int, tau: Floats, mask: Marks) -> None:
        """Add the kept part of a model's task vector; models come in order."""
        kept = self._kept[: self._size]
        keep_masked(tau, mask, kept)
        self._masks[model, : self._size] = mask
        self.statistics.delta_square[model] += sum_squares(tau)
        self.statistics.kept_square[model] += sum_squares(kept)
        if self._ties:
            add_signed(tau, mask, self._weights[model], self._sums, self._counts)
        else:
            add_kept(tau, mask, self._weights[model], self._delta[: self._size])

    def finish(self, base: Floats, out: Bytes, code: int, start: int) -> None:
        """Store the merged piece as the elements of `out` from `start`."""
        delta = self._delta[: self._size]
        if self._ties:
            elect(self._sums, self._counts, delta)
        self.statistics.merged_square += sum_squares(delta)
        count_pairs(self._masks, self._size, self.statistics.kept)
        add_change(delta, base)
        self.statistics.overflowed += count_nonfinite(delta)
        self.statistics.overflowed += encode(delta, code, start, start + self._size, out)
