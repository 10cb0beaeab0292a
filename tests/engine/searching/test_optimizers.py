"""Optimisers: they find what they should within their budget, and go the same way again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.searching.evaluations import Evaluation, failed
from dovetail.engine.searching.loop import Search
from dovetail.engine.searching.objective import Objective
from dovetail.engine.searching.optimizers import make_optimizer
from dovetail.engine.searching.quadratic import lowest_point
from dovetail.engine.searching.record import Candidate, best_of
from dovetail.engine.searching.space import Dimension, Space, Values

Result = Callable[[Values], float | None]


def weights(count: int) -> Space:
    return Space(tuple(Dimension(f"w{i}", "weight", (), "float", 0.1, 2.0) for i in range(count)))


def searched(
    name: str, space: Space, cost: Result, budget: int, start: Values, seed: int = 0, objective: str = "loss"
) -> tuple[Search, str]:
    """Search the least cost; None is a failure."""

    def evaluate(candidates: Sequence[Candidate]) -> list[Evaluation]:
        found = [cost(candidate.values) for candidate in candidates]
        return [failed("no") if each is None else Evaluation(each) for each in found]

    optimizer = make_optimizer(name, space, space.position(start), budget, seed)
    search = Search(space, start, Objective(objective), optimizer, budget, patient=name in ("grid", "random"))
    return search, search.run(evaluate)


def valley(values: Values) -> float:
    """A quadratic with its minimum, 1, at 0.6, 1.3, 0.9, ..., and directions that differ by a factor of 10."""
    x = np.array(values, float) - np.resize([0.6, 1.3, 0.9], len(values))
    return 1.0 + float(x @ x) + 9 * float(x.sum()) ** 2 / len(x)


@pytest.mark.parametrize(("count", "budget"), [(1, 60), (2, 100), (4, 250)])
def test_cma_finds_the_minimum(count: int, budget: int) -> None:
    """CMA-ES finds the minimum of a quadratic within the budget, from the weights of 1."""
    for seed in range(3):
        search, _ = searched("cma", weights(count), valley, budget, (1.0,) * count, seed)
        best = best_of(search.judged)
        assert best is not None
        assert best.cost is not None
        assert best.cost < 1.01
        assert len(search.judged) <= budget


def test_quadratic_needs_few_evaluations() -> None:
    """On a quadratic, the surrogate has the minimum as soon as its parabola is determined."""
    for count in (1, 2, 3):
        budget = (count + 1) * (count + 2) // 2 + 4
        search, reason = searched("quadratic", weights(count), valley, budget, (1.0,) * count)
        best = best_of(search.judged)
        assert best is not None
        assert math.isclose(1.0, best.cost or 0.0, abs_tol=1e-6)
        assert f"the budget of {budget} evaluations is spent" == reason


def test_lowest_point_within_the_cube() -> None:
    """Where a parabola falls towards a side of the cube, its lowest point is on that side."""
    random = np.random.default_rng(0)
    known = random.random((20, 2))
    costs = (known[:, 0] - 1.5) ** 2 + (known[:, 1] - 0.25) ** 2
    assert np.allclose([1.0, 0.25], lowest_point(known, costs, random), atol=1e-6)
    assert np.allclose([0.0], lowest_point(known[:, :1], -((known[:, 0] - 0.9) ** 2), random), atol=1e-6)


def test_grid_is_exact() -> None:
    """The grid has every combination of evenly spread values, in their order, and the start before them."""
    space = Space(
        (
            Dimension("w", "weight", (), "float", 0.0, 1.0),
            Dimension("n", "n", (), "int", 1, 2),
            Dimension("c", "overlap", (), "choice", options=("a", "b")),
            Dimension("o", "order", (), "order", options=("x", "y")),
        )
    )
    search, reason = searched("grid", space, lambda values: 1.0, 50, (0.3, 1, "a", ("x", "y")))
    levels = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    expected = list(itertools.product(levels, (1, 2), "ab", (("x", "y"), ("y", "x"))))
    assert [(0.3, 1, "a", ("x", "y")), *expected] == [each.candidate.values for each in search.judged]
    assert "every point of the grid is evaluated" == reason


@pytest.mark.parametrize(("name", "needed"), [("grid", 17), ("quadratic", 18)])
def test_budgets_that_are_too_small(name: str, needed: int) -> None:
    """A budget in which an optimiser can do nothing of sense is an error that says how much is needed."""
    with pytest.raises(RecipeError, match=rf"the budget of .* is 5; expected at least {needed} evaluations"):
        searched(name, weights(4), valley, 5, (1.0,) * 4)


@pytest.mark.parametrize("name", ["cma", "random", "quadratic"])
def test_the_same_seed_goes_the_same_way(name: str) -> None:
    """A search is decided by its seed, and leaves the random numbers of others alone."""
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # noqa: NPY002
    ways: list[NDArray[np.float64]] = []
    for seed in (5, 5, 6):
        search, _ = searched(name, weights(2), valley, 40, (1.0, 1.0), seed)
        ways.append(np.array([each.candidate.values for each in search.judged], float))
    assert np.array_equal(ways[0], ways[1])
    assert not np.array_equal(ways[0], ways[2])
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("name", ["cma", "random", "quadratic", "grid"])
def test_failures_are_no_end(name: str) -> None:
    """Candidates that fail are counted, never chosen, and do not stop the search."""

    def cost(values: Values) -> float | None:
        return None if float(values[0]) < 0.8 else valley(values)  # type: ignore[arg-type]

    search, _ = searched(name, weights(2), cost, 60, (1.0, 1.0))
    best = best_of(search.judged)
    assert best is not None
    assert float(best.candidate.values[0]) >= 0.8  # type: ignore[arg-type]
    assert any(each.cost is None for each in search.judged)


@pytest.mark.parametrize("name", ["cma", "random"])
def test_small_spaces_end(name: str) -> None:
    """What was evaluated is not evaluated again, and a search in which nothing new is asked for comes to an end."""
    space = Space((Dimension("n", "n", (), "int", 1, 4),))
    search, reason = searched(name, space, lambda values: float(values[0]), 100, (3,))  # type: ignore[arg-type]
    found = [each.candidate.values for each in search.judged]
    assert len(set(found)) == len(found) <= 4
    assert "20 generations asked for nothing new" == reason


def test_awa_stops_without_progress() -> None:
    """Six generations that lower the cost by less than 1e-4 end a search by awa, and no other."""
    search, reason = searched("cma", weights(2), lambda values: 1.0, 200, (1.0, 1.0), objective="awa")
    assert ("6 generations brought no progress", 6) == (reason, search.judged[-1].candidate.generation)
    _, reason = searched("cma", weights(2), lambda values: 1.0, 60, (1.0, 1.0), objective="loss")
    assert "the budget of 60 evaluations is spent" == reason
    _, reason = searched("random", weights(2), lambda values: 1.0, 60, (1.0, 1.0), objective="awa")
    assert "the budget of 60 evaluations is spent" == reason
