"""The optimisers by their names."""

from __future__ import annotations

from dovetail.engine.searching.evolution import Evolution
from dovetail.engine.searching.grid import Grid
from dovetail.engine.searching.optimizer import Optimizer, Random
from dovetail.engine.searching.quadratic import Quadratic
from dovetail.engine.searching.space import Position, Space


def make_optimizer(name: str, space: Space, start: Position, budget: int, seed: int) -> Optimizer:
    """Make an optimiser by its name.

    Parameters
    ----------
    name
        One of `dovetail.engine.searching.options.OPTIMIZERS`.
    space
        What is searched.
    start
        Where the search starts; the caller evaluates this candidate itself, and tells its cost first.
    budget
        Number of evaluations, that of the start included.
    seed
        Seed of random numbers.

    Raises
    ------
    RecipeError
        The optimiser cannot search this space within the budget.
    UnsupportedError
        An optional dependency is missing.

    """
    if name == "cma":
        return Evolution(start, seed)
    if name == "grid":
        return Grid(space, budget - 1)
    if name == "quadratic":
        return Quadratic(space.width, start, budget, seed)
    return Random(space.width, seed)
