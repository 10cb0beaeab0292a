"""Adding up what models keep of their task vectors, rescaled and weighted, with or without an election of signs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.election import add_scaled, add_voting, elect_signs, scale_change
from dovetail.engine.methods.decoding import Floats, Marks
from dovetail.engine.methods.masked import NO_LEAST, StretchSum

LEAST_NORM = 1e-7
"""A model is not rescaled if its sum of magnitudes, kept or whole, is below this, as in mergekit."""


class ScaledSum(StretchSum):
    """The sum of scaled and weighted contributions, or of those with the elected sign.

    Parameters
    ----------
    nonfinite
        Counts of NaN and infinite elements.
    size
        Most elements of a stretch.
    factors
        The models' rescaling factors, and their weights.
    options
        As for `dovetail.engine.kernels.sparsified.sparsified_sum`: whether signs are elected, whether the sum is
        divided, the divisor without an election, and what the quotient is multiplied by.

    """

    def __init__(
        self,
        nonfinite: NDArray[np.int64],
        size: int,
        factors: tuple[Sequence[float], Sequence[float]],
        options: tuple[bool, bool, float, float],
    ) -> None:
        scales, weights = factors
        super().__init__(nonfinite, len(weights), size)
        self._scales, self._weights = np.array(scales, np.float32), np.array(weights, np.float32)
        voting, self._normalize, divisor, factor = options
        divides = self._normalize and not voting
        self._divisor, self._factor = np.float32(divisor if divides else 1.0), np.float32(factor)
        self._sums = np.empty((5, size), np.float32) if voting else None

    @staticmethod
    def scratch_bytes(models: int, voting: bool, size: int) -> int:
        """Compute the bytes of memory of an instance."""
        return size * (models + 8 + (20 if voting else 0))

    def begin(self, size: int) -> None:
        """Start a stretch of `size` elements."""
        super().begin(size)
        if self._sums is not None:
            self._sums[:, :size] = 0

    def _add(self, model: int, tau: Floats, mask: Marks) -> None:
        scale, weight = self._scales[model], self._weights[model]
        if self._sums is not None:
            add_voting(tau, mask, scale, weight, weight, self._sums)
        else:
            add_scaled(tau, mask, scale, weight, self._delta[: self._size])

    def _resolve(self, delta: Floats) -> None:
        if self._sums is not None:
            elect_signs(self._sums, self._normalize, NO_LEAST, delta)
        scale_change(delta, self._divisor, self._factor)


def rescaling_factor(whole: float, kept: float) -> float:
    """Compute the factor by which the kept sum of magnitudes becomes the whole sum, rounded once."""
    if whole < LEAST_NORM or kept < LEAST_NORM:
        return 1.0
    with np.errstate(all="ignore"):
        return float(np.float32(whole / kept))
