"""Telling listeners how a search goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from dovetail.engine import events
from dovetail.engine.searching.evaluations import Evaluation
from dovetail.engine.searching.history import named
from dovetail.engine.searching.journal import SearchJournal
from dovetail.engine.searching.objective import Objective
from dovetail.engine.searching.options import SearchOptions
from dovetail.engine.searching.record import Candidate
from dovetail.engine.searching.space import Space


@dataclass(slots=True)
class Teller:
    """Makes the events of one search."""

    space: Space
    """What is searched."""
    objective: Objective
    """What is made small."""
    how: SearchOptions
    """How the search is made."""
    listen: events.Listener
    """Receives the events."""
    journal: SearchJournal
    """Knows what was evaluated."""
    _began: float = field(default_factory=time.monotonic)
    _now: int = 0

    def begin(self, method: str, candidate_bytes: int, evaluations: int, staging: Path) -> None:
        """Tell that the first candidate is about to be made."""
        self.listen(
            events.SearchStarted(
                method=method,
                searched=self.space.labels,
                optimizer=self.how.optimizer,
                budget=self.how.budget,
                evaluated=len(self.journal.found),
                candidate_bytes=candidate_bytes,
                evaluations=evaluations,
                staging=str(staging),
            )
        )

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Tell that a candidate was evaluated."""
        self._now += 1
        seconds, evaluated = time.monotonic() - self._began, len(self.journal.found)
        cost, seen, objective = self.objective.preview(evaluation, first=candidate.number == 0)
        self.listen(
            events.Candidate(
                number=candidate.number,
                generation=candidate.generation,
                values=named(self.space, candidate.values),
                result=seen.result,
                failure=seen.failure,
                cost=cost,
                objective=objective,
                evaluated=evaluated,
                budget=self.how.budget,
                seconds=seconds,
                seconds_left=max(0, self.how.budget - evaluated) * seconds / self._now,
            )
        )
