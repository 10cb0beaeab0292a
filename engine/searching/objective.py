"""What the search makes small: a cost for every candidate, from what its evaluation gave.

``awa`` is the objective of adaptive weight allocation, the second phase of CABS+ (arXiv:2608.12842, Algorithm 1 and
equations 2 to 19). With the loss L_t(x) of task t for candidate x, and its loss L_t(1) where the search starts, which
there is a weight of 1 for every task,

    D_t = (L_t(x) - L_t(1)) / L_t(1),   f_t = 100 D_t if D_t > 0 else D_t,   F = sum of f_t:

what makes one task worse weighs a hundred times what makes another better, so that no task pays for the others.
``loss`` is the mean of the losses, or the number; ``score`` is the same, to be made great instead of small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dovetail.engine.searching.evaluations import Evaluation, Losses, failed

OBJECTIVES: Final = ("awa", "score", "loss")
"""Names of objectives."""

PENALTY: Final = 100.0
"""Factor on the relative loss that a task gains."""

_SAYS: Final = {
    "awa": "losses by task, of which none may get worse (awa)",
    "score": "the score, the greater the better",
    "loss": "the mean loss, the smaller the better",
}


def relative_degradation(losses: Losses, reference: Losses) -> dict[str, float]:
    """Compute D_t of every task; the tasks are those of `reference`, whose losses are above 0."""
    return {task: (losses[task] - before) / before for task, before in reference.items()}


def awa_cost(losses: Losses, reference: Losses) -> float:
    """Compute F, the sum of f_t over the tasks."""
    changes = relative_degradation(losses, reference).values()
    return sum(PENALTY * change if change > 0 else change for change in changes)


@dataclass(slots=True)
class Objective:
    """The objective of one search, which the first candidate that could be evaluated settles where nobody has chosen.

    A number is then taken for a score, and losses by task for what awa compares.
    """

    name: str | None = None
    """One of `OBJECTIVES`; None until it is settled."""
    reference: Losses | None = None
    """The losses that awa compares with; the tasks of all other candidates, too, must be these."""

    @property
    def says(self) -> str:
        """What is made small or great, for people."""
        return _SAYS.get(self.name or "", "a score or losses by task, as the first evaluation will show")

    def judge(self, evaluations: Sequence[Evaluation]) -> list[tuple[float | None, Evaluation]]:
        """Give the cost of every candidate, the smaller the better, and the evaluation as the objective sees it.

        Parameters
        ----------
        evaluations
            The evaluations of candidates in the order of asking, after those that were judged before.

        Returns
        -------
        list of tuple
            None is the cost of what failed, here or already when it was evaluated.

        """
        return [self._judge(each) for each in evaluations]

    def preview(self, evaluation: Evaluation, *, first: bool) -> tuple[float | None, Evaluation, str | None]:
        """Judge an evaluation before those that were asked for earlier are known, where that can be done already; give
        the objective's name too."""
        if self.reference is None and not first:
            return None, evaluation, self.name
        copy = replace(self)
        return *copy._judge(evaluation), copy.name

    def _judge(self, evaluation: Evaluation) -> tuple[float | None, Evaluation]:
        result = evaluation.result
        if result is None:
            return None, evaluation
        losses: Losses = result if isinstance(result, Mapping) else {"": result}
        if self.name is None:
            self.name = "awa" if isinstance(result, Mapping) else "score"
        if wrong := self._misfit(losses):
            return None, failed(wrong)
        if self.reference is None:
            self.reference = losses
        mean = sum(losses.values()) / len(losses)
        cost = awa_cost(losses, self.reference) if self.name == "awa" else -mean if self.name == "score" else mean
        if not math.isfinite(cost):
            return None, failed("its losses are too far from the others to be compared; expected smaller numbers")
        return cost, evaluation

    def _misfit(self, losses: Losses) -> str:
        """Say why losses cannot be compared with the others; empty if they can."""
        if self.name == "awa":
            first = self.reference is None
            low = next((task for task, loss in losses.items() if loss < 0 or (first and loss == 0)), None)
            if low is not None:
                which, bound = f" of task {low!r}" if low else "", "above 0" if first else "of at least 0"
                return f"the loss{which} is {losses[low]:g}; expected a number {bound} for awa"
        if self.reference is None or set(losses) == set(self.reference):
            return ""
        return f"it gave {_tasks(losses)}; expected {_tasks(self.reference)} as of the first candidate"


def _tasks(losses: Losses) -> str:
    return "a single number" if set(losses) == {""} else f"the tasks {', '.join(sorted(losses))}"
