"""The grid: every combination of evenly spread values, in the order of the recipe, the last mark's changing first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.searching.optimizer import too_few
from dovetail.engine.searching.space import Dimension, Position, Space, Value

GENERATION: Final = 64
"""Most candidates that are asked for at once."""


class Grid:
    """The optimiser ``grid``.

    Choices and orders are tried in full, and numbers at as many levels as the budget allows, as many for each.

    Parameters
    ----------
    space
        What is searched.
    budget
        Most points.

    Raises
    ------
    RecipeError
        The budget is too small for two levels of every number.

    """

    def __init__(self, space: Space, budget: int) -> None:
        self._space = space
        self._points = itertools.product(*grid_levels(space, budget))

    def ask(self) -> Sequence[Position]:
        """Give the next points."""
        return [self._space.position(values) for values in itertools.islice(self._points, GENERATION)]

    def tell(self, positions: Sequence[Position], costs: NDArray[np.float64]) -> None:
        """Learn nothing."""


def grid_levels(space: Space, budget: int) -> list[list[Value]]:
    """Choose the values of every dimension, so that the grid has at most `budget` points."""

    def points(levels: int) -> int:
        return math.prod(_all_of(each) or min(levels, each.count or levels) for each in space.dimensions)

    if points(2) > budget:
        raise too_few("a grid", points(2) + 1, budget + 1)
    levels = 2
    while levels < budget and points(levels + 1) <= budget:
        levels += 1
    return [each.levels(_all_of(each) or levels) for each in space.dimensions]


def _all_of(dimension: Dimension) -> int:
    """Give the number of values of a choice or an order; 0 for numbers."""
    return dimension.count or 0 if dimension.kind in ("choice", "order") else 0
