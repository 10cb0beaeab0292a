"""The loop of a search: ask the optimiser for a generation, evaluate it, and tell what it cost, until there is reason
to stop.

Optimisers are told of generations as a whole and in the order of asking, so that the search does not depend on which
candidate was evaluated first. A search that is continued takes the same way again, with the outcomes of the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from dovetail.engine.errors import EvaluationError
from dovetail.engine.searching.evaluations import Evaluation
from dovetail.engine.searching.objective import Objective
from dovetail.engine.searching.optimizer import Optimizer
from dovetail.engine.searching.record import Candidate, Judged, best_of
from dovetail.engine.searching.space import Position, Space, Values
from dovetail.engine.text import counted

PATIENCE: Final = 6
"""Generations without progress after which awa stops."""
LEAST_PROGRESS: Final = 1e-4
"""By how much a generation must lower awa's cost to count as progress."""
MOST_REPEATS: Final = 20
"""Generations in a row that ask for nothing new, after which every search stops."""

Evaluate = Callable[[Sequence[Candidate]], list[Evaluation]]
"""Evaluates candidates, and gives the outcomes in their order."""


class Search:
    """The state of a search.

    Parameters
    ----------
    space
        What is searched.
    start
        The values of the first candidate.
    objective
        Makes costs of outcomes.
    optimizer
        Chooses candidates.
    budget
        Most candidates that are evaluated.
    patient
        Whether to go on where awa would stop for want of progress.

    """

    def __init__(
        self, space: Space, start: Values, objective: Objective, optimizer: Optimizer, budget: int, *, patient: bool
    ) -> None:
        self._space, self._start, self._optimizer = space, start, optimizer
        self.objective, self._budget, self._patient = objective, budget, patient
        self.judged: list[Judged] = []
        """Every candidate that was evaluated, in the order of asking."""
        self._numbers: dict[Values, int] = {}
        self._flat = self._repeats = 0

    def run(self, evaluate: Evaluate) -> str:
        """Search until there is reason to stop; give the reason, to follow "stopped:".

        Raises
        ------
        EvaluationError
            Neither the start nor any candidate of the first generation could be evaluated.

        """
        positions: Sequence[Position] = [self._space.position(self._start)]
        known = [self._start]  # a position in the cube need not say all digits of the start
        generation = 0
        while True:
            before = best_of(self.judged)
            asked, whole = self._new(known, generation)
            self._take(asked, evaluate(asked))
            best = best_of(self.judged)
            if generation == 1 or not whole:
                self._refuse_failure()
            if not whole:
                return f"the budget of {self._budget} evaluations is spent"
            if generation and (reason := self._reason(asked, before, best)):
                return reason
            costs = [self.judged[self._numbers[values]].cost for values in known]
            self._optimizer.tell(positions, np.array([np.inf if cost is None else cost for cost in costs]))
            positions = self._optimizer.ask()
            known = [self._space.values(position) for position in positions]
            generation += 1
            if not positions:
                self._refuse_failure()
                return "every point of the grid is evaluated"

    def _new(self, known: Sequence[Values], generation: int) -> tuple[list[Candidate], bool]:
        """Number what was not asked for before; give these candidates, and whether the budget has room for all."""
        asked: list[Candidate] = []
        for values in known:
            if values in self._numbers:
                continue
            if len(self._numbers) >= self._budget:
                return asked, False
            asked.append(Candidate(len(self._numbers), generation, values))
            self._numbers[values] = asked[-1].number
        return asked, True

    def _take(self, asked: Sequence[Candidate], outcomes: Sequence[Evaluation]) -> None:
        for candidate, (cost, outcome) in zip(asked, self.objective.judge(outcomes), strict=True):
            self.judged.append(Judged(candidate, outcome, cost))

    def _refuse_failure(self) -> None:
        if best_of(self.judged) is None:
            why = self.judged[-1].evaluation.failure
            raise EvaluationError(
                f"all of the first {counted(len(self.judged), 'candidate')} failed, the last one because {why}",
                "" if "; expected " in why else "an evaluator that gives a number, or losses by task",
                "correct the evaluator and run the same command again",
            )

    def _reason(self, asked: Sequence[Candidate], before: Judged | None, best: Judged | None) -> str:
        """Say why to stop after a generation; empty for going on."""
        self._repeats = 0 if asked else self._repeats + 1
        if self._repeats >= MOST_REPEATS:
            return f"{MOST_REPEATS} generations asked for nothing new"
        progress = before is None or before.cost is None or best is None or best.cost is None
        progress = progress or before.cost - best.cost > LEAST_PROGRESS  # type: ignore[union-attr, operator]
        self._flat = 0 if progress else self._flat + 1
        if self.objective.name == "awa" and not self._patient and self._flat >= PATIENCE:
            return f"{PATIENCE} generations brought no progress"
        return ""
