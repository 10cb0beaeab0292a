"""What an evaluator says of a candidate: a score, losses by task, or nothing that can be used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dovetail.engine.recipe.places import shown

Losses = Mapping[str, float]
"""The loss of every task by its name."""

_EXPECTED: Final = "expected a number, or losses by task"
_MOST_TASKS: Final = 10_000
"""Most tasks that an evaluator may speak of."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of one evaluation."""

    result: float | Losses | None
    """A score, or losses by task; None if the evaluation failed."""
    failure: str = ""
    """Why it failed, in one line; empty if it did not."""

    @property
    def failed(self) -> bool:
        """Whether there is no result."""
        return self.result is None


def failed(reason: str) -> Evaluation:
    """Make the outcome of an evaluation that failed."""
    return Evaluation(None, " ".join(reason.split()))


def read_printed(text: str) -> Evaluation:
    """Read what a command printed: JSON as a whole, or else in its last line that is not blank."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return failed(f"it printed nothing; {_EXPECTED} as JSON")
    for part in (text, lines[-1]):
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        return read_result(value)
    return failed(f"it printed {shown(lines[-1].strip()[:100])}; {_EXPECTED} as JSON")


def read_result(value: Any) -> Evaluation:
    """Read what an evaluator gives: a number (also of numpy or torch), or a mapping of tasks' names to numbers."""
    if isinstance(value, Mapping):
        if not value or len(value) > _MOST_TASKS:
            return failed(f"it gave losses of {len(value)} tasks; expected 1 to {_MOST_TASKS:,}")
        losses: dict[str, float] = {}
        for task, given in value.items():
            number = _number(given)
            if number is None or not math.isfinite(number):
                what = f"the loss of task {shown(str(task))} is {_named(given, number)}"
                return failed(f"{what}; expected a finite number")
            losses[str(task)] = number
        return Evaluation(losses)
    number = _number(value)
    if number is None:
        return failed(f"it gave {_named(value, None)}; {_EXPECTED}")
    if not math.isfinite(number):
        return failed(f"the score is {_named(value, number)}; expected a finite number")
    return Evaluation(number)


def _named(value: Any, number: float | None) -> str:
    if number is None:
        return "null" if value is None else shown(value if isinstance(value, str | bool) else str(value))
    return "NaN" if math.isnan(number) else "infinite" if math.isinf(number) else str(number)


def _number(value: Any) -> float | None:
    """Give a number as a float; None for all else, such as truth values and text."""
    if isinstance(value, bool | str | bytes) or value is None or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # arrays of several elements, and integers too large
        return None
