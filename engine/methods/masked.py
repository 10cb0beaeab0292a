"""Merging the kept parts of task vectors: what programs that select elements have in common.

A chunk is merged stretch by stretch, so that working memory does not grow with the chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import encode
from dovetail.engine.kernels.election import add_scaled, add_voting, elect_signs
from dovetail.engine.kernels.statistics import count_nonfinite, count_pairs
from dovetail.engine.kernels.sums import sum_squares
from dovetail.engine.kernels.task_vectors import add_change, keep_masked
from dovetail.engine.methods.decoding import Floats, Marks
from dovetail.engine.methods.program import Bytes, ChunkStatistics

NO_LEAST = np.float32(-np.inf)
"""Least divisor of an election that has none."""

_ONE = np.float32(1.0)


class StretchSum:
    """Merges one stretch after another and gathers the chunk's statistics; subclasses say how contributions add up.

    Parameters
    ----------
    nonfinite
        Counts of NaN and infinite elements, which become part of the statistics.
    count
        Number of models.
    size
        Most elements of a stretch.

    """

    def __init__(self, nonfinite: NDArray[np.int64], count: int, size: int) -> None:
        self.statistics = ChunkStatistics(
            kept=np.zeros((count, count), np.int64),
            delta_square=np.zeros(count),
            kept_square=np.zeros(count),
            merged_square=0.0,
            nonfinite=nonfinite,
        )
        self._size = 0
        self._masks = np.empty((count, size), np.uint8)
        self._kept = np.empty(size, np.float32)
        self._delta = np.empty(size, np.float32)

    def begin(self, size: int) -> None:
        """Start a stretch of `size` elements."""
        self._size = size
        self._delta[:size] = 0

    def add(self, model: int, tau: Floats, mask: Marks) -> None:
        """Add the kept part of a model's task vector; models come in order."""
        kept = self._kept[: self._size]
        keep_masked(tau, mask, kept)
        self._masks[model, : self._size] = mask
        self.statistics.delta_square[model] += sum_squares(tau)
        self.statistics.kept_square[model] += sum_squares(kept)
        self._add(model, tau, mask)

    def finish(self, base: Floats, out: Bytes, code: int, start: int) -> None:
        """Store the merged stretch as the elements of `out` from `start`."""
        delta = self._delta[: self._size]
        self._resolve(delta)
        self.statistics.merged_square += sum_squares(delta)
        count_pairs(self._masks, self._size, self.statistics.kept)
        add_change(delta, base)
        self.statistics.overflowed += count_nonfinite(delta)
        self.statistics.overflowed += encode(delta, code, start, start + self._size, out)

    def _add(self, model: int, tau: Floats, mask: Marks) -> None:
        raise NotImplementedError

    def _resolve(self, delta: Floats) -> None:
        """Turn the added contributions into the change; nothing to do where `_add` has added to it directly."""


BeginSum = Callable[[NDArray[np.int64], int], StretchSum]
"""Makes a sum of the counts of NaN and infinite elements, which become part of its statistics, and of the most elements
of a stretch."""


class MaskedSum(StretchSum):
    """The sum of weighted contributions or, if `ties`, the mean of those with the elected sign.

    Parameters
    ----------
    nonfinite
        Counts of NaN and infinite elements.
    weights
        The models' weights.
    ties
        Whether elements kept by several models are merged by sign election instead of a sum.
    size
        Most elements of a stretch.

    """

    def __init__(self, nonfinite: NDArray[np.int64], weights: Sequence[float], ties: bool, size: int) -> None:
        super().__init__(nonfinite, len(weights), size)
        self._weights = np.asarray(weights, np.float32)
        self._ties = ties
        self._sums = np.empty((5, size if ties else 0), np.float32)

    @staticmethod
    def scratch_bytes(models: int, ties: bool, size: int) -> int:
        """Compute the bytes of memory of an instance."""
        return size * (models + 8 + (20 if ties else 0))

    def begin(self, size: int) -> None:
        """Start a stretch of `size` elements."""
        super().begin(size)
        self._sums[:, :size] = 0

    def _add(self, model: int, tau: Floats, mask: Marks) -> None:
        if self._ties:
            add_voting(tau, mask, _ONE, self._weights[model], _ONE, self._sums)
        else:
            add_scaled(tau, mask, _ONE, self._weights[model], self._delta[: self._size])

    def _resolve(self, delta: Floats) -> None:
        if self._ties:
            elect_signs(self._sums, True, NO_LEAST, delta)
