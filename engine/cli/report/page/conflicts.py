"""The section of a merge's page that says who overrode whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.actions.conflicts import Conflicts
from dovetail.engine.cli.report.page.columns import fitting_columns, place_columns
from dovetail.engine.cli.report.page.layers import MOST_CELLS, fitting, too_many_kinds
from dovetail.engine.cli.report.page.parts import Column, HeatMap, Measure, Part, Section, Table
from dovetail.engine.output.places import Grid, Places, ratio
from dovetail.engine.text import counted

_MOST_NUMBERS: Final = 150_000
"""Numbers in the table of tensors, beside those of the page's other table."""

_CONFLICTS: Final = "conflicts"
"""Id of the table of tensors."""


def conflicts_section(names: Sequence[str], found: Conflicts) -> Section:
    """Show what each model lost, to whom, and where.

    Parameters
    ----------
    names
        Names of the models.
    found
        What was found out.

    """
    places = Places(found.tensors)
    grid = Grid(places, np.ones(len(found.tensors), np.bool_))
    sentences = [
        "A model wants the changes that it would keep if it were alone. It loses those whose sign is not elected, and "
        "those at places that other models keep instead. A change can be lost to several models.",
    ]
    if found.left_out:
        sentences.append(f"Of {counted(found.left_out, 'tensor')} this cannot be told.")
    parts: list[Part] = [_models(names, found), _pairs(names, found)]
    if grid.cells > MOST_CELLS:
        sentences.append(too_many_kinds(len(grid.kinds)))
    else:
        title = "Changes lost, by layer and kind of tensor"
        measures = fitting(grid.cells, _measures(names, found, grid))
        parts.append(HeatMap(title, "kind", grid.kinds, "layer", grid.layers, measures, _CONFLICTS))
    groups = [
        [Column(f"{name}: {title}", values[:, place].tolist(), percent=True) for place, name in enumerate(names)]
        for title, values in (
            ("lost", _divided(_own(found.lost), found.wanted)),
            ("lost, by squared norm", _divided(_own(found.lost_square), found.wanted_square)),
        )
    ]
    columns, left_out = fitting_columns(groups, len(found.tensors), _MOST_NUMBERS)
    if left_out:
        sentences.append(left_out)
    columns = [*place_columns(list(found.tensors), places), *columns]
    parts.append(Table("Changes lost, in every tensor", columns, id=_CONFLICTS))
    return Section("Conflicts", sentences, parts)


def _own(lost: NDArray[Any]) -> NDArray[Any]:
    """Give what each model loses at all."""
    return np.diagonal(lost, axis1=-2, axis2=-1)


def _divided(parts: NDArray[Any], wholes: NDArray[Any]) -> NDArray[np.float64]:
    found = np.full(wholes.shape, np.nan)
    np.divide(parts, wholes, out=found, where=wholes > 0)
    return found


def _models(names: Sequence[str], found: Conflicts) -> Table:
    wanted, lost = found.wanted.sum(axis=0), _own(found.lost.sum(axis=0))
    squares = _divided(_own(found.lost_square.sum(axis=0)), found.wanted_square.sum(axis=0))
    return Table(
        "What every model lost",
        [
            Column("model", list(names)),
            Column("changes wanted", wanted.tolist()),
            Column("lost", lost.tolist()),
            Column("share lost", _divided(lost, wanted).tolist(), percent=True),
            Column("share of the squared norm lost", squares.tolist(), percent=True),
        ],
    )


def _pairs(names: Sequence[str], found: Conflicts) -> Table:
    lost, squares = found.lost.sum(axis=0), found.lost_square.sum(axis=0)
    wanted, all_squares = found.wanted.sum(axis=0), found.wanted_square.sum(axis=0)
    pairs = [(i, j) for i in range(len(names)) for j in range(len(names)) if i != j]
    return Table(
        "Who overrode whom",
        [
            Column("model", [names[i] for i, _ in pairs]),
            Column("lost to", [names[j] for _, j in pairs]),
            Column("changes", [int(lost[pair]) for pair in pairs]),
            Column("share of what it wanted", [ratio(int(lost[i, j]), int(wanted[i])) for i, j in pairs], percent=True),
            Column(
                "share of the squared norm",
                [ratio(float(squares[i, j]), float(all_squares[i])) for i, j in pairs],
                percent=True,
            ),
        ],
    )


def _measures(names: Sequence[str], found: Conflicts, grid: Grid) -> Iterator[Measure]:
    for place, name in enumerate(names):
        yield Measure(f"{name}: share lost", grid.values(_share(found.lost, found.wanted, place)), percent=True)
    for place, name in enumerate(names):
        shares = grid.values(_share(found.lost_square, found.wanted_square, place))
        yield Measure(f"{name}: share of the squared norm lost", shares, percent=True)


def _share(lost: NDArray[Any], wanted: NDArray[Any], place: int) -> Callable[[NDArray[np.int64]], float]:
    return lambda rows: ratio(float(lost[rows, place, place].sum()), float(wanted[rows, place].sum()))
