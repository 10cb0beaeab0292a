"""The tables of two merges as wholes: where their recipes differ, and their totals side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from dovetail.engine.cli.report.page.parts import Column, Part, Section, Table
from dovetail.engine.cli.report.page.recipe_differences import differing_keys
from dovetail.engine.cli.report.page.side import Shared, Side
from dovetail.engine.output.places import ratio

_OPTIONS: Final = "options"
"""What stands before the name of an option, among keys of the recipe."""


def recipe_section(first: Side, second: Side) -> Section:
    """Show the keys, options and inputs that differ."""
    rows = list(_differences(first, second))
    if not rows:
        return Section("What differs", ("Recipes, options and inputs are the same.",))
    keys, ones, others = zip(*rows, strict=True)
    columns = [Column("key", keys), Column(first.label, ones), Column(second.label, others)]
    return Section("What differs", (), [Table("Recipe, options and inputs, where they differ", columns)])


def _differences(first: Side, second: Side) -> Iterator[tuple[str, str | None, str | None]]:
    sides = (first.manifest, second.manifest)
    yield from differing_keys(*(each["recipe"] for each in sides))
    yield from differing_keys(*({_OPTIONS: each["options"]} for each in sides))
    yield from differing_keys(*({"format": each["output_format"]} for each in sides))
    yield from differing_keys(*({"written by Dovetail": each["dovetail_version"]} for each in sides))
    yield from differing_keys(*({"input": _inputs(each["inputs"])} for each in sides))


def _inputs(entries: Sequence[Any]) -> dict[str, str]:
    """Describe the files of every input in a line."""
    return {
        str(each["checkpoint"]): ", ".join(f"{file['name']} ({file['size_bytes']:,} bytes)" for file in each["files"])
        for each in entries
    }


def difference_title(first: Side, second: Side) -> str:
    """Give the title of a column of differences."""
    return f"{second.label} minus {first.label}"


def figures_section(first: Side, second: Side, shared: Shared) -> Section:
    """Show the totals side by side."""
    parts: list[Part] = []
    if first.has_changes and second.has_changes:
        parts.append(_totals(first, second))
        parts += list(_by_model(first, second, shared))
    sentences = ("Differences of percentages are in points.",) if parts else ("No figure is in both manifests.",)
    return Section("Figures", sentences, parts)


def _totals(first: Side, second: Side) -> Table:
    names = {
        "norm of the change of the base": "merged_norm",
        "values too large for the dtype": "overflowed",
        "NaN or infinite values in the inputs": "nonfinite",
        "tensors copied from the base": "copied",
    }
    rows = [(name, first.totals[key], second.totals[key]) for name, key in names.items()]
    return _beside("The whole merge", "figure", rows, first, second)


def _by_model(first: Side, second: Side, shared: Shared) -> Iterator[Table]:
    """Show what models give in each merge, of the models that both have."""
    models = [(first.names[i], i, j) for i, j in shared.models]
    one, other = first.totals, second.totals
    if models:
        densities = [(name, one["density"][i], other["density"][j]) for name, i, j in models]
        yield _beside("Density of every model", "model", densities, first, second, percent=True)
        kept = [(name, _share(one, i), _share(other, j)) for name, i, j in models]
        yield _beside("Share of the norm kept", "model", kept, first, second, percent=True)
    pairs = [
        (f"{a} and {b}", one["overlap"][i][k], other["overlap"][j][m])
        for place, (a, i, j) in enumerate(models)
        for b, k, m in models[place + 1 :]
    ]
    if pairs:
        yield _beside("Overlap", "models", pairs, first, second, percent=True)


def _share(totals: Any, model: int) -> float:
    kept, norm = totals["kept_norm"][model], totals["task_vector_norm"][model]
    return math.nan if kept is None or norm is None else ratio(kept, norm)


def _beside(
    title: str,
    what: str,
    rows: Sequence[tuple[str, float | None, float | None]],
    first: Side,
    second: Side,
    *,
    percent: bool = False,
) -> Table:
    names, ones, others = zip(*rows, strict=True)
    differences = [None if a is None or b is None else b - a for a, b in zip(ones, others, strict=True)]
    return Table(
        title,
        [
            Column(what, names),
            Column(first.label, ones, percent),
            Column(second.label, others, percent),
            Column(difference_title(first, second), differences, percent),
        ],
    )
