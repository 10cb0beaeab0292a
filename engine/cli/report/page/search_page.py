"""The page of a search: how the best candidate was found, and what values do to the result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dovetail.engine.cli.report.page.parts import Column, Curves, Facts, Page, Section, Table, Text
from dovetail.engine.errors import VerificationError
from dovetail.engine.searching.history import FORMAT, HISTORY_NAME, shown_result, shown_value
from dovetail.engine.text import counted
from dovetail.io.files.smallfile import is_named, read_at_most

_MOST_BYTES: Final = 2**28
_MOST_TASKS: Final = 12
"""Tasks whose losses are drawn."""


def is_search(folder: Path) -> bool:
    """Tell whether a folder is the output of a search."""
    return is_named(folder / HISTORY_NAME)


def search_page(folder: Path) -> Page:
    """Make the page of a search.

    Raises
    ------
    VerificationError
        Its history is damaged, or of another program.

    """
    path = folder / HISTORY_NAME
    try:
        history = json.loads(read_at_most(path, _MOST_BYTES))
        if history["format"] != FORMAT:
            raise ValueError(f"format {history['format']!r}")
        return _page(folder, history)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise VerificationError(
            f"{path} cannot be used ({type(error).__name__}: {error})",
            "the history of a search",
            "run the same search again",
        ) from error


def _page(folder: Path, history: Mapping[str, Any]) -> Page:
    candidates, best = history["candidates"], history["candidates"][history["best"]]
    summary = {
        "Method": str(history["method"]),
        "Candidates": f"{len(candidates):,} of {history['budget']:,}",
        "Best": f"number {best['number']:,}",
        "Its result": shown_result(best["result"]),
        "Optimiser": str(history["optimizer"]),
        "Objective": str(history["objective"]),
    }
    sections = [
        Section("Best values", (f"The search ended: {history['stopped']}.",), [_best(history, best)]),
        Section(
            "Progress",
            ("Costs are what the search makes small: by the objective, from what the evaluator gave.",),
            list(_progress(candidates)),
        ),
        Section("Values", ("Each point is a candidate that was scored.",), list(_values(history))),
        Section("Candidates", (), [_table(history)]),
        Section("Recipe", ("With the marks of what was searched.",), [Text(str(history["recipe"]))]),
    ]
    return Page(f"Search {folder.resolve().name}", summary, list(_warnings(history, best)), sections)


def _best(history: Mapping[str, Any], best: Mapping[str, Any]) -> Facts:
    return Facts({each["name"]: shown_value(best["values"][each["name"]]) for each in history["searched"]})


def _progress(candidates: Sequence[Mapping[str, Any]]) -> Iterator[Curves]:
    numbers = [each["number"] for each in candidates]
    lowest: float | None = None
    so_far: list[float | None] = []
    for each in candidates:
        if each["cost"] is not None:
            lowest = each["cost"] if lowest is None else min(lowest, each["cost"])
        so_far.append(lowest)
    costs = [each["cost"] for each in candidates]
    yield Curves("Cost", "candidate", numbers, "cost", {"best so far": so_far, "of the candidate": costs})
    tasks = [name for each in candidates if isinstance(each["result"], Mapping) for name in each["result"]]
    if names := list(dict.fromkeys(tasks))[:_MOST_TASKS]:
        losses = {name: [_of_task(each["result"], name) for each in candidates] for name in names}
        yield Curves("Results by task", "candidate", numbers, "what the evaluator gave", losses)


def _of_task(result: Any, name: str) -> float | None:
    return result.get(name) if isinstance(result, Mapping) else None


def _values(history: Mapping[str, Any]) -> Iterator[Curves]:
    """Show the cost over every number that was searched."""
    for searched in history["searched"]:
        if searched["kind"] in ("float", "int"):
            name = searched["name"]
            points = sorted(
                (each["values"][name], each["cost"]) for each in history["candidates"] if each["cost"] is not None
            )
            yield Curves(
                name,
                name,
                [value for value, _ in points],
                "cost",
                {"candidate": [cost for _, cost in points]},
                points=True,
            )


def _table(history: Mapping[str, Any]) -> Table:
    candidates = history["candidates"]
    return Table(
        "All candidates",
        [
            Column("number", [each["number"] for each in candidates]),
            Column("generation", [each["generation"] for each in candidates]),
            *(
                Column(searched["name"], [_plain(each["values"][searched["name"]]) for each in candidates])
                for searched in history["searched"]
            ),
            Column("cost", [each["cost"] for each in candidates]),
            Column("result", [shown_result(each["result"]) for each in candidates]),
            Column("failure", [each["failure"] or "" for each in candidates]),
        ],
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else shown_value(value)


def _warnings(history: Mapping[str, Any], best: Mapping[str, Any]) -> Iterator[str]:
    if failed := history["failed"]:
        reason = next((each["failure"] for each in history["candidates"] if each["failure"]), "")
        yield f"{counted(failed, 'candidate')} could not be scored, the first of them because: {reason}"
    for searched in history["searched"]:
        if searched["kind"] in ("float", "int"):
            value, low, high = best["values"][searched["name"]], searched["low"], searched["high"]
            if value - low < 0.01 * (high - low) or high - value < 0.01 * (high - low):
                yield (
                    f"The best {searched['name']} ({shown_value(value)}) is at a bound of what was searched "
                    f"({shown_value(low)} to {shown_value(high)}): wider bounds may give a better merge."
                )
