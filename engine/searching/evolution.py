"""CMA-ES: candidates are drawn from a normal distribution that moves and stretches towards those of the least cost.

The library is ``cma`` by Hansen and others (arXiv:1604.00772), with the settings of AWA (arXiv:2608.12842): the better
half of a generation is recombined by weights ln(lambda/2 + 1/2) - ln i, and no weights are negative. A generation has 6
candidates, or 4 + 3 ln N in N > 2 coordinates, as Hansen recommends.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.searching.optimizer import LEAST_GENERATION, SPREAD
from dovetail.engine.searching.space import Position
from dovetail.io.extras import require


class Evolution:
    """The optimiser ``cma``.

    Parameters
    ----------
    start
        The mean of the first generation.
    seed
        Seed of random numbers, which are the search's own.

    Raises
    ------
    UnsupportedError
        The library is not installed.

    """

    def __init__(self, start: Position, seed: int) -> None:
        library = _library()
        # The library does not search one coordinate alone: a second one, which decides nothing, stands beside it.
        self._width = len(start)
        mean = start if self._width > 1 else np.append(start, 0.5)
        random = np.random.default_rng(seed)
        options = {
            "bounds": [0, 1],
            "popsize": max(LEAST_GENERATION, 4 + int(3 * math.log(len(mean)))),
            "CMA_active": False,
            "seed": np.nan,  # leaves numpy's shared generator alone
            "randn": lambda *shape: random.standard_normal(shape),
            "verbose": -9,
            "verb_log": 0,
            "verb_disp": 0,
        }
        self._strategy = library.CMAEvolutionStrategy(mean, SPREAD, options)
        self._asked: list[Any] = []

    def ask(self) -> Sequence[Position]:
        """Give the next generation."""
        self._asked = self._strategy.ask()
        return [np.clip(each[: self._width], 0.0, 1.0) for each in self._asked]

    def tell(self, positions: Sequence[Position], costs: NDArray[np.float64]) -> None:
        """Move the distribution; what failed counts as no better than the worst of its generation."""
        if not self._asked:
            return  # of the start, which is the first mean
        finite = costs[np.isfinite(costs)]
        worst = float(finite.max()) + float(np.ptp(finite)) + 1e-9 if finite.size else 0.0
        self._strategy.tell(self._asked, [float(cost) if math.isfinite(cost) else worst for cost in costs])
        self._asked = []


def _library() -> Any:
    require("cma", "search", "searches by CMA-ES")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about plots, for which it would like another library
        import cma
    return cma
