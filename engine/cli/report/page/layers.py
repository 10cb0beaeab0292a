"""The section of a merge's page that shows every measure by layer and kind of tensor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.cli.report.page.balance import balance_section, shares_of
from dovetail.engine.cli.report.page.parts import Curves, HeatMap, Measure, Section
from dovetail.engine.output.places import OUTSIDE, Grid, Places, joint_density, joint_norm, joint_overlap, ratio

MOST_CELLS: Final = 20_000
"""Cells of the heat map up to which it is shown."""

MOST_VALUES: Final = 300_000
"""Values of all measures of the heat map together; measures beyond it are left out."""

MOST_PAIRS: Final = 15
"""Pairs of models that the heat map shows; a table has all of them."""

TENSORS: Final = "tensors"
"""Id of the table of tensors."""


def merged_tensors(table: np.recarray[Any, Any]) -> Any:
    """Tell of each tensor whether the merge computed it."""
    return ~table["copied"] & np.isfinite(table["merged_norm"])


def layer_sections(
    names: Sequence[str], totals: Mapping[str, Any], table: np.recarray[Any, Any], places: Places
) -> Iterator[Section]:
    """Show every measure by layer and kind of tensor, and what each model gives layer by layer.

    Parameters
    ----------
    names
        Names of the models.
    totals
        Statistics of the whole merge, as in the manifest.
    table
        Records of the tensors.
    places
        Where each tensor belongs.

    """
    grid = Grid(places, merged_tensors(table))
    yield Section("Layers", *_by_kind(names, table, grid))
    if len(names) > 1 and grid.layers:
        yield balance_section(names, totals["kept_norm"], table["kept_norm"], grid)


def _by_kind(
    names: Sequence[str], table: np.recarray[Any, Any], grid: Grid
) -> tuple[Sequence[str], Sequence[HeatMap | Curves]]:
    heights = {name: grid.by_layer(_norm_of(table, "kept_norm", place)) for place, name in enumerate(names)}
    curves = Curves("What models give, by layer", "layer", grid.layers, "norm kept", heights)
    sentences = (
        "Every cell is the tensors of one kind in one layer, with their figures as of one tensor. "
        f"{OUTSIDE.capitalize()} is what belongs to no layer, such as embeddings.",
    )
    if grid.cells > MOST_CELLS:
        return (*sentences, too_many_kinds(len(grid.kinds))), [curves]
    title = "By layer and kind of tensor"
    measures = fitting(grid.cells, _measures(names, table, grid))
    return sentences, [HeatMap(title, "kind", grid.kinds, "layer", grid.layers, measures, TENSORS), curves]


def too_many_kinds(kinds: int) -> str:
    """Say why there is no heat map."""
    return f"There are too many kinds of tensors ({kinds:,}) for a heat map; the table below has them."


def fitting(cells: int, measures: Iterator[Measure]) -> list[Measure]:
    """Take the first measures, as many as a page has room for, and one at the least."""
    return list(itertools.islice(measures, max(1, MOST_VALUES // max(1, cells))))


def _measures(names: Sequence[str], table: np.recarray[Any, Any], grid: Grid) -> Iterator[Measure]:
    """Give every way to colour the heat map."""
    change = grid.values(lambda rows: joint_norm(table["merged_norm"][rows]))
    yield Measure("change of the base by the merge (norm)", change)
    spread = grid.values(lambda rows: _root_mean_square(table[rows]))
    yield Measure("change of a weight by the merge (root mean square)", spread)
    for place, name in enumerate(names):
        yield from _of_model(place, name, table, grid)
    for i, j in list(itertools.combinations(range(len(names)), 2))[:MOST_PAIRS]:
        yield Measure(f"overlap of {names[i]} and {names[j]}", grid.values(_overlap_of(table, i, j)), percent=True)


def _of_model(place: int, name: str, table: np.recarray[Any, Any], grid: Grid) -> Iterator[Measure]:
    norm = grid.values(_norm_of(table, "task_vector_norm", place))
    kept = grid.values(_norm_of(table, "kept_norm", place))
    yield Measure(f"{name}: norm of the task vector", norm)
    yield Measure(f"{name}: norm kept", kept)
    yield Measure(f"{name}: share of the norm kept", divided(kept, norm), percent=True)
    density = grid.values(lambda rows: joint_density(table[rows], place))
    yield Measure(f"{name}: density", density, percent=True)
    if table["kept_norm"].shape[1] > 1:
        share = grid.values(lambda rows: _share(table["kept_norm"][rows], place))
        yield Measure(f"{name}: share of what all models give", share, percent=True, whole=True)


def _norm_of(table: np.recarray[Any, Any], key: str, place: int) -> Callable[[NDArray[np.int64]], float]:
    return lambda rows: joint_norm(table[key][rows, place])


def _overlap_of(table: np.recarray[Any, Any], i: int, j: int) -> Callable[[NDArray[np.int64]], float]:
    return lambda rows: joint_overlap(table[rows], i, j)


def _share(kept: NDArray[np.float64], place: int) -> float:
    return shares_of([joint_norm(kept[:, model]) for model in range(kept.shape[1])])[place]


def _root_mean_square(rows: Any) -> float:
    return joint_norm(rows["merged_norm"]) / math.sqrt(max(1, rows["elements"].sum()))


def divided(parts: Sequence[Sequence[Any]], wholes: Sequence[Sequence[Any]]) -> list[list[float]]:
    """Divide the values of two heat maps cell by cell."""
    return [[ratio(*cell) for cell in zip(*rows, strict=True)] for rows in zip(parts, wholes, strict=True)]
