"""What `quality.py` finds beyond a common factor: weights of each model, orders of pruning, further densities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from quality_case import Case, Result, accuracy
from quality_methods import EXPLORED, SETTINGS, Setting, plus

from dovetail.engine.searching.evaluations import Evaluation
from dovetail.engine.searching.loop import Search
from dovetail.engine.searching.objective import Objective
from dovetail.engine.searching.optimizers import make_optimizer
from dovetail.engine.searching.record import Candidate, best_of
from dovetail.engine.searching.space import Dimension, Space, Values

BUDGET: Final = 25
"""Candidates of a search of weights, the start included."""
POINTS: Final = 256
"""Most points of the grid, ten times the budget: 4 weights of each of four models, 16 of each of two."""
BOUNDS: Final = (0.25, 2.0)
"""Range of every weight, relative to the best common factor."""
WEIGHTED: Final = ("task arithmetic", "CABS 3:32")
"""Settings whose weights are searched; the second is CABS+, as shares of 3/32 are too small to overlap."""
GRIDDED: Final = ("CABS 3:32",)
"""Settings whose weights are searched by a grid too."""
ORDERED: Final = ("CABS 3:32", "CABS 64:256")
"""Settings whose order of pruning is changed."""


def named(name: str) -> Setting:
    """Give a setting by its name."""
    return next(setting for setting in (*SETTINGS, *EXPLORED) if setting.name == name)


def search_weights(case: Case, name: str, optimizer: str, budget: int) -> dict[str, Any]:
    """Search a weight for each model so that no task loses by it (awa), as CABS+ does: from weights of 1.

    From the best common factor there would be nothing to find: what is better for one task is worse for another.

    Parameters
    ----------
    case
        The fine-tunes.
    name
        The setting, in which every model has a part of its own that its weight scales.
    optimizer, budget
        As for ``dovetail search``.

    """
    setting = named(name)
    common = case.best(setting)["factor"]
    low, high = min(1.0, BOUNDS[0] * common), max(1.0, BOUNDS[1] * common)
    count = len(case.tasks)
    space = Space(tuple(Dimension(f"w{place}", "weight", (), "float", low, high) for place in range(count)))
    start: Values = (1.0,) * count

    def evaluate(candidates: Sequence[Candidate]) -> list[Evaluation]:
        found = [weighted(case, setting, candidate.values, "search") for candidate in candidates]
        return [Evaluation({task: each["loss"] for task, each in one.items()}) for one in found]

    chosen = make_optimizer(optimizer, space, space.position(start), budget, case.seed)
    run = Search(space, start, Objective("awa"), chosen, budget, patient=optimizer == "grid")
    run.run(evaluate)
    best = best_of(run.judged)
    assert best is not None
    values = best.candidate.values
    return {
        "weights": values,
        "cost": best.cost,
        "evaluations": len(run.judged),
        "search": accuracy(weighted(case, setting, values, "search")),
        "test": weighted(case, setting, values, "test"),
    }


def weighted(case: Case, setting: Setting, weights: Sequence[Any], part: str) -> Result:
    """Score a merge with a weight for each model."""
    given = [float(weight) for weight in weights]
    return case.evaluate(
        lambda: plus(case.encoder.base, case.changes(setting, split=True), given),
        part,
        setting=asdict(setting),
        weights=given,
    )


def orders(case: Case, name: str) -> dict[str, Any]:
    """Prune in other orders, with the factor that is best for the order of the list: every task comes first once."""
    setting, count = named(name), len(case.tasks)
    factor = case.best(setting)["factor"]
    found = {}
    for first in range(count):
        order = [f"models[{(first + place) % count}]" for place in range(count)]
        more: Mapping[str, Any] = {} if first == 0 else {"pruning_order": order}
        names = list(case.tasks)
        found[" ".join(names[first:] + names[:first])] = case.merged(setting, factor, "test", **more)
    return found


def explore(case: Case) -> dict[str, Any]:
    """Search the factor of further densities, and test them."""
    found = {}
    for setting in EXPLORED:
        row = case.best(setting)
        found[setting.name] = {**row, "test": case.merged(setting, row["factor"], "test")}
    return found


def layers(case: Case) -> dict[str, Any]:
    """Say how much of every model's change is in which tensors: embeddings, attention, the rest of the layers."""

    def make() -> dict[str, list[float]]:
        kinds: dict[str, Callable[[str], bool]] = {
            "embeddings": lambda name: name.startswith("embeddings."),
            "attention": lambda name: ".attention." in name,
            "feed forward": lambda name: not name.startswith("embeddings.") and ".attention." not in name,
        }
        base, found = case.encoder.base, {}
        for kind, belongs in kinds.items():
            squares = [
                sum(float((model[name] - base[name]).square().sum()) for name in base if belongs(name))
                for model in case.models
            ]
            found[kind] = squares
        totals = [sum(each) for each in zip(*found.values(), strict=True)]
        return {kind: [s / t for s, t in zip(squares, totals, strict=True)] for kind, squares in found.items()}

    return dict(case.cache.get(make, models=case.keys, what="layers"))
