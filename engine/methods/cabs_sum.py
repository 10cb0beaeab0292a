"""How the programs of CABS have in common that what models keep adds up: weighted, or by an election of signs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.marking import Addition
from dovetail.engine.methods.masked import MaskedSum, StretchSum
from dovetail.engine.methods.program import State


class AddsMasked:
    """Base of programs with masks that merge by a `MaskedSum`: how the kept parts add up, wherever they come from."""

    __slots__ = ()
    weights: tuple[float, ...]
    ties: bool

    @property
    def addition(self) -> Addition:
        """How the kept parts add up."""
        return Addition(
            weights=self.weights,
            rescales=False,
            voting=self.ties,
            by_count=True,
            normalize=True,
            divisor=1.0,
            factor=1.0,
        )

    def begin_sum(self, nonfinite: NDArray[np.int64], size: int) -> StretchSum:
        """Make what adds the kept parts up."""
        return MaskedSum(nonfinite, self.weights, self.ties, size)

    def summing_bytes(self, size: int) -> int:
        """Compute the bytes of memory of such a sum."""
        return MaskedSum.scratch_bytes(len(self.weights), self.ties, size)

    def scales(self, state: State) -> tuple[float, ...]:
        """Give what the kept parts are multiplied by."""
        return (1.0,) * len(self.weights)

    def most_kept(self, model: int, elements: int) -> int:
        """Give the most of so many elements in a row that a model can keep."""
        return elements
