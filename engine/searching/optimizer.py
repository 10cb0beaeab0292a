"""What every optimiser can do: ask for a generation of candidates, and be told what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.searching.space import Position

SPREAD: Final = 1 / 6
"""First standard deviation of CMA-ES in every coordinate, as a part of its range."""
LEAST_GENERATION: Final = 6
"""Candidates of a generation at the least."""


class Optimizer(Protocol):
    """Chooses the candidates that are evaluated.

    Whatever it does follows from the space, the seed and what it was told, so that a search that is begun again, and
    told the same, goes the same way.
    """

    def ask(self) -> Sequence[Position]:
        """Give the next candidates, which may be evaluated at once; none if there are no more."""
        ...

    def tell(self, positions: Sequence[Position], costs: NDArray[np.float64]) -> None:
        """Take what candidates cost, in the order of asking, infinity for those that failed; the start comes first."""
        ...


class Random:
    """Draws candidates evenly from the whole cube."""

    def __init__(self, width: int, seed: int) -> None:
        self._width, self._random = width, np.random.default_rng(seed)

    def ask(self) -> Sequence[Position]:
        """Give the next candidates."""
        return list(self._random.random((LEAST_GENERATION, self._width)))

    def tell(self, positions: Sequence[Position], costs: NDArray[np.float64]) -> None:
        """Learn nothing."""


def too_few(name: str, needed: int, budget: int) -> RecipeError:
    """Make the error about a budget that is too small for an optimiser."""
    return RecipeError(
        f"the budget of {name} is {budget}", f"at least {needed} evaluations for what is searched", "raise --budget"
    )
