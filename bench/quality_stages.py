"""The stages of `quality.py`: what each of them finds for a seed, in which order they come, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from quality_case import Case, Counts
from quality_methods import EXPLORED, PRUNERS, SETTINGS, STRENGTHS, families, strengths
from quality_models import Training
from quality_weights import BUDGET, GRIDDED, ORDERED, POINTS, WEIGHTED, explore, layers, orders, search_weights

STAGES: Final = ("compare", "pruning", "orders", "weights", "explore", "grid")
"""Names of stages; all but the first need what the first finds."""
EARLY: Final = 3
"""Seeds that are compared before anything else is looked at."""
TRAINED: Final = 4.5
"""What a text costs in training, relative to a text that is scored."""


def carry_out(case: Case, stage: str) -> Any:
    """Find what a stage is about, for one seed."""
    match stage:
        case "compare":
            return case.compare()
        case "pruning":
            pruned = {
                each.name: case.pruning(each) for each in SETTINGS if each.family in (*PRUNERS, SETTINGS[0].family)
            }
            return pruned | {"layers": layers(case)}
        case "orders":
            return {name: orders(case, name) for name in ORDERED}
        case "weights":
            return {name: search_weights(case, name, "cma", BUDGET) for name in WEIGHTED}
        case "explore":
            return explore(case)
        case _:
            return {name: search_weights(case, name, "grid", POINTS) for name in GRIDDED}


def jobs(stages: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """Give stages with seeds, in the order in which they say most soonest."""
    others = [stage for stage in STAGES[1:-1] if stage in stages]
    compared = [("compare", seed) for seed in range(seeds)] if STAGES[0] in stages else []
    first = [(stage, 0) for stage in others]
    further = [(stage, seed) for seed in range(1, seeds) for stage in others]
    grids = [(STAGES[-1], seed) for seed in range(seeds)] if STAGES[-1] in stages else []
    return compared[:EARLY] + first + compared[EARLY:] + further + grids


def texts_of(stage: str, tasks: int, training: Training, counts: Counts) -> float:
    """Give the number of texts that a stage of one seed scores at most; those of training count by what they cost."""
    test, search = tasks * counts.test, tasks * counts.search
    match stage:
        case "compare":
            tuning = TRAINED * training.examples * training.epochs * tasks
            searching = sum(1 if each.fixed else len(strengths(each)) for each in SETTINGS) * search
            tested = len(families()) + sum(each.family in PRUNERS for each in SETTINGS) + 2
            return tuning + searching + len(SETTINGS) * tasks * counts.selection + tested * test
        case "orders":
            return len(ORDERED) * (tasks - 1) * test
        case "weights":
            return len(WEIGHTED) * (BUDGET * search + test)
        case "explore":
            return len(EXPLORED) * (len(STRENGTHS) // 2 * search + tasks * counts.selection + test)
        case "grid":
            return len(GRIDDED) * (POINTS * search + test)
        case _:
            return 0.0
