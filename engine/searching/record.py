"""Candidates of a search, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail.engine.searching.evaluations import Evaluation
from dovetail.engine.searching.space import Values


@dataclass(frozen=True, slots=True)
class Candidate:
    """Values that are to be evaluated."""

    number: int
    """Its number in the order of asking, from 0."""
    generation: int
    """Its generation; 0 is the start alone."""
    values: Values
    """The value of every dimension."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate and what it was found to be worth."""

    candidate: Candidate
    """The candidate."""
    evaluation: Evaluation
    """What the evaluator gave, as the objective sees it."""
    cost: float | None
    """What the search makes small; None if the candidate failed."""


def best_of(judged: list[Judged]) -> Judged | None:
    """Give the candidate of the least cost, of several the first; None if all failed."""
    sound = [each for each in judged if each.cost is not None]
    return min(sound, key=lambda each: each.cost if each.cost is not None else 0.0, default=None)
