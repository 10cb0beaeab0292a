"""A quadratic surrogate: a parabola through what is known, whose lowest point is evaluated next.

For few parameters and smooth objectives, where it needs fewer evaluations than CMA-ES. The first candidates are spread
by a Latin hypercube, as many as the parabola has coefficients. Each later generation has the lowest point of the
parabola that fits best, one near the best candidate, and one anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.searching.optimizer import too_few
from dovetail.engine.searching.space import Position

_STARTS: Final = 256
"""Points from which the lowest one of a parabola is looked for."""
_STEPS: Final = 200
"""Steps of each descent."""
_NEAR: Final = 0.1
"""Standard deviation of what is near, as a part of the range; it halves as the known candidates double."""


class Quadratic:
    """The optimiser ``quadratic``.

    Parameters
    ----------
    width
        Number of coordinates.
    start
        Where the search starts.
    budget
        Number of evaluations, that of the start included.
    seed
        Seed of random numbers.

    Raises
    ------
    RecipeError
        The budget is too small for the coefficients of a parabola.

    """

    def __init__(self, width: int, start: Position, budget: int, seed: int) -> None:
        self._coefficients = (width + 1) * (width + 2) // 2
        if budget < self._coefficients + 3:
            raise too_few("a quadratic surrogate", self._coefficients + 3, budget)
        self._random = np.random.default_rng(seed)
        self._known, self._costs = np.empty((0, width)), np.empty(0)
        self._start, self._began = start, False

    def ask(self) -> Sequence[Position]:
        """Give the next candidates."""
        width = self._known.shape[1]
        if not self._began:
            self._began = True
            strata = np.stack([self._random.permutation(self._coefficients) for _ in range(width)], axis=1)
            return list((strata + self._random.random(strata.shape)) / self._coefficients)
        anywhere = self._random.random(width)
        shift = self._random.standard_normal(width) * _NEAR * np.sqrt(self._coefficients / max(1, len(self._costs)))
        if not self._costs.size:
            return [anywhere]
        near = np.clip(self._known[self._costs.argmin()] + shift, 0.0, 1.0)
        return [lowest_point(self._known, self._costs, self._random), near, anywhere]

    def tell(self, positions: Sequence[Position], costs: NDArray[np.float64]) -> None:
        """Remember what did not fail."""
        sound = np.isfinite(costs)
        self._known = np.concatenate([self._known, np.array(positions).reshape(len(costs), -1)[sound]])
        self._costs = np.concatenate([self._costs, costs[sound]])


def lowest_point(known: NDArray[np.float64], costs: NDArray[np.float64], random: np.random.Generator) -> Position:
    """Give the lowest point in the unit cube of the parabola that fits best, the cheap candidates above all.

    Parameters
    ----------
    known
        Candidates, shape (count, width).
    costs
        What they cost, shape (count,).
    random
        Gives the points at which descents begin.

    """
    width = known.shape[1]
    slope, curvature = _fit(known, costs)
    pace = 1.0 / max(1e-9, float(np.abs(np.linalg.eigvalsh(curvature)).max()))
    points = np.concatenate([random.random((_STARTS, width)), known[np.argsort(costs, kind="stable")[:8]]])
    for _ in range(_STEPS):
        points = np.clip(points - pace * (slope + points @ curvature), 0.0, 1.0)
    values = points @ slope + 0.5 * np.einsum("pi,ij,pj->p", points, curvature, points)
    lowest: Position = points[int(values.argmin())]
    return lowest


def _fit(known: NDArray[np.float64], costs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit c + g x + x H x / 2 by weighted least squares; give g and H."""
    width = known.shape[1]
    rows, columns = np.triu_indices(width)
    features = np.concatenate([np.ones((len(known), 1)), known, known[:, rows] * known[:, columns]], axis=1)
    ranks = np.argsort(np.argsort(costs, kind="stable"), kind="stable")
    weights = 1.0 / np.sqrt(1.0 + ranks / features.shape[1])
    found, *_ = np.linalg.lstsq(features * weights[:, None], costs * weights, rcond=None)
    curvature = np.zeros((width, width))
    curvature[rows, columns] += found[1 + width :]
    curvature[columns, rows] += found[1 + width :]
    return found[1 : 1 + width], curvature
