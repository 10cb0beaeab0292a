"""How a search is made: the options that `search` takes besides the recipe and the evaluator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe.places import one_of
from dovetail.engine.searching.objective import OBJECTIVES

OPTIMIZERS: Final = ("cma", "grid", "random", "quadratic")
"""Names of optimisers."""
STARTS: Final = ("ones", "equal", "nan")
"""Names of starting points: weights of 1, of one divided by the number of models, and as NAN computes them."""
GIVEN: Final = ("folder", "tensors", "arrays")
"""What evaluators that are functions can be given."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a search is made."""

    budget: int = 100
    """Most candidates that are evaluated."""
    optimizer: str = "cma"
    """``cma`` (CMA-ES), ``grid``, ``random``, or ``quadratic`` (a quadratic surrogate, for few parameters)."""
    objective: str | None = None
    """``awa``, ``score`` or ``loss``; None: ``score`` of evaluators that give a number, ``awa`` of losses by task."""
    start: str = "ones"
    """Weights at the start: ``ones``, ``equal`` (1/K of K models), or ``nan`` (in inverse proportion to the norms of
    the task vectors). Other parameters start in the middle of their range, or where the mark says."""
    timeout_s: float | None = None
    """Seconds after which a command counts as failed; None for no limit."""
    evaluations: int = 1
    """Most candidates that are there at once, being made or evaluated, if memory allows."""
    seed: int = 0
    """Seed of the optimiser."""
    keep: bool = False
    """Whether the folders of candidates are kept, in ``candidates`` of the output."""
    given: str = "folder"
    """What a function is given: the candidate's ``folder``, or without one its ``tensors`` (torch) or ``arrays``."""

    def __post_init__(self) -> None:
        for name, value, names in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("objective", self.objective, (*OBJECTIVES, None)),
            ("start", self.start, STARTS),
            ("given", self.given, GIVEN),
        ):
            if value not in names:
                raise _wrong(name, repr(value), one_of([each for each in names if each]))
        for name, number in (("budget", self.budget), ("evaluations", self.evaluations)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise _wrong(name, number, "a whole number from 1")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise _wrong("seed", self.seed, "a whole number from 0")
        if self.timeout_s is not None and not (self.timeout_s > 0 and math.isfinite(self.timeout_s)):
            raise _wrong("timeout_s", self.timeout_s, "seconds above 0, or None")


def _wrong(name: str, value: Any, expected: str) -> RecipeError:
    return RecipeError(f"{name} is {value}", expected, f"correct {name}")
