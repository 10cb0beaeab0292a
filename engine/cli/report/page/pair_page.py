"""The page of two merges, side by side: what was asked for, what came of it, and where the figures differ."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.engine.cli.report.page.columns import fitting_columns, place_columns, shape_text
from dovetail.engine.cli.report.page.layers import (
    MOST_CELLS,
    MOST_PAIRS,
    TENSORS,
    divided,
    fitting,
    merged_tensors,
    too_many_kinds,
)
from dovetail.engine.cli.report.page.merge_page import recipe_text, size_text
from dovetail.engine.cli.report.page.pair_tables import difference_title, figures_section, recipe_section
from dovetail.engine.cli.report.page.parts import Column, Curves, HeatMap, Measure, Page, Section, Table, Text
from dovetail.engine.cli.report.page.side import Shared, Side, find_shared, side
from dovetail.engine.output.manifest import norm_text
from dovetail.engine.output.places import Grid, Places, joint_density, joint_norm, joint_overlap
from dovetail.engine.text import counted, short_name

if TYPE_CHECKING:
    from dovetail.engine.output.document import Manifest

Value = Callable[[Any], float]
"""Computes a figure from the records of several tensors."""


def pair_page(labels: tuple[str, str], manifests: tuple[Manifest, Manifest]) -> Page:
    """Make the page of two merges.

    Parameters
    ----------
    labels
        What the page calls them.
    manifests
        Their manifests.

    Raises
    ------
    VerificationError
        The merges have no tensor in common, or a manifest is damaged.

    """
    first, second = (side(label, manifest) for label, manifest in zip(labels, manifests, strict=True))
    shared = find_shared(first, second)
    places = Places(shared.names)
    sections = [
        recipe_section(first, second),
        figures_section(first, second, shared),
        *([_layers(first, second, shared, places)] if first.has_changes and second.has_changes else []),
        _tensors(first, second, shared, places),
        Section("Recipes", (), [Text(recipe_text(each.manifest), each.label) for each in (first, second)]),
    ]
    title = f"{first.label} and {second.label}, side by side"
    return Page(title, _summary(first, second, shared), list(_warnings(first, second, shared)), sections)


def _summary(first: Side, second: Side, shared: Shared) -> dict[str, str]:
    sides = (first, second)
    found = {
        "Tensors in both": f"{len(shared.names):,}",
        "Of these the same, bit for bit": f"{int((shared.same == 1).sum()):,}"
        + (f" ({int((shared.same < 0).sum()):,} cannot be told)" if (shared.same < 0).any() else ""),
    }
    for each in sides:
        found[f"Method of {each.label}"] = str(each.manifest["recipe"].get("merge_method", "conversion"))
    for each in sides:
        found |= {f"Size of {each.label}": text for text in size_text(each.manifest).values()}
    for each in sides:
        if each.has_changes:
            found[f"Change of the base by {each.label}"] = norm_text(each.totals["merged_norm"], 4)
    return found


def _warnings(first: Side, second: Side, shared: Shared) -> Iterator[str]:
    bases = [str(each.manifest["recipe"].get("base_model")) for each in (first, second)]
    if first.has_changes and second.has_changes and short_name(bases[0]) != short_name(bases[1]):
        yield (
            f"The base models differ: {bases[0]} in {first.label}, {bases[1]} in {second.label}. Changes are measured "
            "from these, so that norms of one merge say little beside those of the other."
        )
    for each, names in zip((first, second), shared.only, strict=True):
        if names:
            yield f"{counted(len(names), 'tensor')} only in {each.label}, such as {names[0]}."
    if shared.reshaped:
        yield f"{counted(len(shared.reshaped), 'tensor')} with another shape in each, such as {shared.reshaped[0]}."
    for index, each in enumerate((first, second)):
        paired = {pair[index] for pair in shared.models}
        alone = [name for place, name in enumerate(each.names) if place not in paired]
        if alone:
            yield f"Only {each.label} has {', '.join(alone)} among its models."
        if not each.has_changes:
            yield f"{each.label} has no figures about changes of a base model, so that nothing is shown by layer."


def _layers(first: Side, second: Side, shared: Shared, places: Places) -> Section:
    """Show the differences of every measure by layer and kind of tensor."""
    grid = Grid(places, merged_tensors(shared.first) & merged_tensors(shared.second))
    tables = (shared.first, shared.second)
    sentences = [
        f"Colours are figures of {second.label} minus those of {first.label}: blue where {second.label} has more, "
        f"orange where {first.label} has more.",
        "A norm says how much is changed, and not in which direction: two merges with the same norms can be far apart. "
        "'dovetail compare' compares their values.",
    ]
    changes = [grid.by_layer(partial(_change_in, each)) for each in tables]
    heights = dict(zip((first.label, second.label), changes, strict=True))
    curves = Curves("Change of the base, by layer", "layer", grid.layers, "norm of the change", heights)
    if grid.cells > MOST_CELLS:
        return Section("Layers", (*sentences, too_many_kinds(len(grid.kinds))), [curves])
    measures = fitting(grid.cells, _measures(first, second, shared, grid))
    title = "Differences by layer and kind of tensor"
    return Section(
        "Layers", sentences, [HeatMap(title, "kind", grid.kinds, "layer", grid.layers, measures, TENSORS), curves]
    )


def _measures(first: Side, second: Side, shared: Shared, grid: Grid) -> Iterator[Measure]:
    """Give every way to colour the heat map."""

    def both(one: Value, other: Value) -> tuple[list[list[Any]], list[list[Any]]]:
        return grid.values(lambda rows: one(shared.first[rows])), grid.values(lambda rows: other(shared.second[rows]))

    before, after = both(_change, _change)
    differences = _minus(after, before)
    share = f"change of the base, as a share of that by {first.label}"
    yield Measure(share, divided(differences, before), True, signed=True)
    yield Measure("change of the base (norm)", differences, signed=True)
    yield Measure(f"change of the base by {first.label} (norm)", before)
    yield Measure(f"change of the base by {second.label} (norm)", after)
    for i, j in shared.models:
        name = first.names[i]
        densities = both(partial(joint_density, model=i), partial(joint_density, model=j))
        yield Measure(f"{name}: density", _minus(*reversed(densities)), percent=True, signed=True)
        norms = both(partial(_kept, model=i), partial(_kept, model=j))
        yield Measure(f"{name}: norm kept", _minus(*reversed(norms)), signed=True)
    for (i, j), (k, m) in list(itertools.combinations(shared.models, 2))[:MOST_PAIRS]:
        overlaps = both(partial(joint_overlap, first=i, second=k), partial(joint_overlap, first=j, second=m))
        title = f"overlap of {first.names[i]} and {first.names[k]}"
        yield Measure(title, _minus(*reversed(overlaps)), percent=True, signed=True)


def _change(rows: Any) -> float:
    return joint_norm(rows["merged_norm"])


def _change_in(table: Any, rows: Any) -> float:
    return _change(table[rows])


def _kept(rows: Any, model: int) -> float:
    return joint_norm(rows["kept_norm"][:, model])


def _minus(after: Sequence[Sequence[Any]], before: Sequence[Sequence[Any]]) -> list[list[float]]:
    found: list[list[float]] = (np.array(after, np.float64) - np.array(before, np.float64)).tolist()
    return found


def _tensors(first: Side, second: Side, shared: Shared, places: Places) -> Section:
    """Show every tensor that both have."""
    words = {1: "same", 0: "differ", -1: "unknown"}
    columns = [
        *place_columns(shared.names, places),
        Column("shape", [shape_text(shape) for shape in shared.first["shape"]]),
        Column("bytes", [words[int(each)] for each in shared.same], choose=True),
    ]
    if (shared.first["dtype"] != shared.second["dtype"]).any():
        columns += [
            Column(f"dtype, {each.label}", list(table["dtype"]), choose=True)
            for each, table in ((first, shared.first), (second, shared.second))
        ]
    if not (first.has_changes and second.has_changes):
        return Section("Tensors", (), [Table("Every tensor of both", columns, id=TENSORS)])
    figures, left_out = fitting_columns(list(_figures(first, second, shared)), len(shared.names))
    sentences = [left_out] if left_out else []
    return Section("Tensors", sentences, [Table("Every tensor of both", [*columns, *figures], id=TENSORS)])


def _figures(first: Side, second: Side, shared: Shared) -> Iterator[list[Column]]:
    """Give the columns of figures, those that tell most first."""
    yield list(_three("change", first, second, shared.first["merged_norm"], shared.second["merged_norm"]))
    for title, key in (("density", "density"), ("norm kept", "kept_norm")):
        yield [
            column
            for i, j in shared.models
            for column in _three(
                f"{first.names[i]}: {title}",
                first,
                second,
                shared.first[key][:, i],
                shared.second[key][:, j],
                percent=key == "density",
            )
        ]


def _three(title: str, first: Side, second: Side, one: Any, other: Any, *, percent: bool = False) -> Iterator[Column]:
    """Give a figure of each merge, and their difference."""
    yield Column(f"{title}, {first.label}", one.tolist(), percent)
    yield Column(f"{title}, {second.label}", other.tolist(), percent)
    yield Column(f"{title}, {difference_title(first, second)}", (other - one).tolist(), percent)
