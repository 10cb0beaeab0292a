"""What a search leaves: the best recipe, and a history of all candidates, for people and programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import xxhash

from dovetail.engine.errors import OutputError
from dovetail.engine.facts import facts_html, facts_text
from dovetail.engine.searching.loop import Search
from dovetail.engine.searching.options import SearchOptions
from dovetail.engine.searching.reading import Template
from dovetail.engine.searching.record import Judged
from dovetail.engine.searching.space import Dimension, Space, Values
from dovetail.engine.text import counted, short_name
from dovetail.io.files.smallfile import read_at_most

HISTORY_NAME: Final = "history.json"
"""File name of the history in the output."""
RECIPE_NAME: Final = "recipe.yml"
"""File name of the best recipe."""
MODEL_NAME: Final = "model"
"""Name of the folder of the best model."""
FORMAT: Final = "dovetail-search"
"""Says in the history what it is."""
_MOST_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True, repr=False)
class SearchResult:
    """A finished search."""

    output: Path
    """The output: ``recipe.yml``, ``model`` and ``history.json``."""
    values: dict[str, Any]
    """What was searched, and its best values."""
    result: float | dict[str, float]
    """What the evaluator gave for them."""
    evaluated: int
    """Candidates that were evaluated, in all runs."""
    stopped: str
    """Why no more were evaluated."""
    history: dict[str, Any] = field(repr=False)
    """All of ``history.json``."""

    @property
    def recipe(self) -> Path:
        """The best recipe."""
        return self.output / RECIPE_NAME

    @property
    def model(self) -> Path:
        """The best model."""
        return self.output / MODEL_NAME

    def _facts(self) -> dict[str, str]:
        best = ", ".join(f"{name} {shown_value(value)}" for name, value in self.values.items())
        found = {"output": str(self.output), "best": best, "result": shown_result(self.result)}
        return found | {"evaluated": counted(self.evaluated, "candidate"), "stopped": self.stopped}

    def __repr__(self) -> str:
        return facts_text("SearchResult", self._facts())

    def _repr_html_(self) -> str:
        """Show it as a table in notebooks."""
        return facts_html("SearchResult", self._facts())


def shown_value(value: Any) -> str:
    """Write a value of a candidate for people."""
    if isinstance(value, list | tuple):
        return ", ".join(short_name(str(name)) for name in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_result(result: Any) -> str:
    """Write what an evaluator gave for people; at most three losses one by one."""
    if not isinstance(result, Mapping):
        return "failed" if result is None else f"{result:.6g}"
    parts = [f"{task} {loss:.4g}" for task, loss in list(result.items())[:3]]
    more = len(result) - len(parts)
    return ", ".join(parts) + (f" and {more} more" if more else "")


def request_hash(identity: Mapping[str, Any]) -> str:
    """Hash all that decides a search."""
    return xxhash.xxh3_128_hexdigest(json.dumps(identity, sort_keys=True).encode())


def named(space: Space, values: Values) -> dict[str, Any]:
    """Give the values of a candidate by their names, as JSON has them."""
    plain = (list(value) if isinstance(value, tuple) else value for value in values)
    return dict(zip(space.labels, plain, strict=True))


def make_history(
    template: Template,
    method: str,
    options: SearchOptions,
    evaluate: str | None,
    request: str,
    search: Search,
    best: Judged,
    stopped: str,
) -> dict[str, Any]:
    """Describe a search as JSON. It holds nothing of when and how fast, so that the same search gives the same."""
    return {
        "format": FORMAT,
        "version": 1,
        "request": request,
        "method": method,
        "recipe": template.origin.text,
        "evaluate": evaluate,
        "optimizer": options.optimizer,
        "objective": search.objective.name,
        "start": options.start,
        "seed": options.seed,
        "budget": options.budget,
        "searched": [_described(each) for each in template.space.dimensions],
        "best": best.candidate.number,
        "failed": sum(each.cost is None for each in search.judged),
        "stopped": stopped,
        "candidates": [
            {
                "number": each.candidate.number,
                "generation": each.candidate.generation,
                "values": named(template.space, each.candidate.values),
                "result": each.evaluation.result,
                "cost": each.cost,
                "failure": each.evaluation.failure,
            }
            for each in search.judged
        ],
    }


def _described(dimension: Dimension) -> dict[str, Any]:
    numbers = {"low": dimension.low, "high": dimension.high, "scale": "log" if dimension.log else "linear"}
    return {
        "name": dimension.label,
        "parameter": dimension.parameter,
        "places": [list(place) for place in dimension.places],
        "kind": dimension.kind,
        **(numbers if dimension.kind in ("float", "int") else {"choices": list(dimension.options)}),
    }


def history_bytes(history: Mapping[str, Any]) -> bytes:
    """Write a history, as its file has it."""
    return json.dumps(history, indent=1).encode() + b"\n"


def result_of(output: Path, history: dict[str, Any]) -> SearchResult:
    """Make the result of a search from its history."""
    best = history["candidates"][history["best"]]
    return SearchResult(output, best["values"], best["result"], len(history["candidates"]), history["stopped"], history)


def find_search(output: Path, request: str) -> dict[str, Any] | None:
    """Give the history of an output that is just the search that is asked for; None if there is no output.

    Raises
    ------
    OutputError
        The folder holds something else, or is damaged.

    """
    if not output.is_dir() or not any(output.iterdir()):
        return None
    action = "choose another folder, or pass --overwrite to replace it"
    try:
        history: Any = json.loads(read_at_most(output / HISTORY_NAME, _MOST_BYTES))
        whole = history["format"] == FORMAT and (output / RECIPE_NAME).is_file() and (output / MODEL_NAME).is_dir()
        result_of(output, history)
    except (OSError, ValueError, LookupError, TypeError):
        whole = False
    if not whole:
        raise OutputError(f"output folder {output} is not empty", "a new or empty folder, or this very search", action)
    if history["request"] != request:
        raise OutputError(
            f"output folder {output} is not empty and holds another search",
            "a new or empty folder, or an output of the same recipe, evaluator, options and inputs",
            action,
        )
    found: dict[str, Any] = history
    return found
