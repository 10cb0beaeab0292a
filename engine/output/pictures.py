"""The pictures of a model card: what each model gives layer by layer, and where the merge changes the base model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.output.places import Grid, Places
from dovetail.engine.output.tensor_table import labels
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.records import RecordTable
from dovetail.engine.text import percent

SHARES_NAME: Final = "dovetail_models.svg"
"""File name of the picture of what each model gives."""

CHANGES_NAME: Final = "dovetail_layers.svg"
"""File name of the picture of where the merge changes the base model."""

PICTURE_NAMES: Final = (SHARES_NAME, CHANGES_NAME)
"""File names of all pictures that a model card can show."""

NO_PICTURES: Final = (
    "The model card shows no pictures: these are of what models change in a base model, in at most 400 layers."
)
"""What a person should know where there is nothing to draw."""

_MOST_LAYERS: Final = 400
_MOST_KINDS: Final = 40
_MOST_MODELS: Final = 7
_WIDTH: Final = 860
_LEFT: Final = 120
"""Room for the names of layers, in pixels."""
_LINE: Final = 20
"""Pixels from a line of text to the next."""

_HUES: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8a929b")
"""Colours of Okabe and Ito, which people who see fewer colours can tell apart; the last is for all other models."""

_CIVIDIS: Final = (
    (0, 32, 76), (39, 63, 108), (76, 85, 107), (104, 106, 112), (131, 129, 120), (161, 152, 118), (192, 177, 109),
    (225, 204, 92), (255, 233, 69),
)  # fmt: skip
"""Colours from least to most, which are as different for people who see fewer colours."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file that a model card shows."""

    name: str
    """Its name."""
    title: str
    """What it shows, in words of our own."""
    data: bytes
    """Its content."""


def card_pictures(plan: Plan, table: RecordTable) -> list[Picture]:
    """Draw the pictures of a merge's model card; none where no model changes a base model, or layers are too many.

    Parameters
    ----------
    plan
        The merge.
    table
        The rows of all chunks.

    """
    merged = np.array([not tensor.copied and not tensor.output for tensor in plan.tensors])
    grid = Grid(Places([tensor.name for tensor in plan.tensors]), merged)
    sums = table.tensor_sums()
    kept = _by_model(plan, sums["kept_square"])
    if not 0 < len(grid.layers) <= _MOST_LAYERS or not 0 < math.fsum(kept[merged].flat) < math.inf:
        return []
    elements = np.array([tensor.domain for tensor in plan.tensors], np.float64)
    squares = sums["merged_square"]

    def change(rows: NDArray[np.int64]) -> float:
        return math.sqrt(math.fsum(squares[rows]) / max(1.0, math.fsum(elements[rows])))

    changes = np.array(grid.values(change))
    return [_shares(labels(plan.models), kept, grid), _changes(changes, grid)]


def _by_model(plan: Plan, squares: NDArray[Any]) -> NDArray[np.float64]:
    """Put the squares of every tensor, which are in the order of its method, in the order of the recipe's models."""
    found = np.zeros((len(plan.tensors), len(plan.models)))
    for row, tensor in enumerate(plan.tensors):
        if not tensor.copied:
            np.add.at(found[row], np.array(tensor.order, np.int64), squares[row, : len(tensor.order)])
    return found


def _shares(names: Sequence[str], kept: NDArray[np.float64], grid: Grid) -> Picture:
    """Draw a bar for each layer, cut into what each model gives; those that give most have colours of their own."""
    from dovetail.engine.output.svg import Drawing, cut  # which imports XML, and few merges draw

    layers = np.array([grid.by_layer(partial(_sum_of, kept[:, place])) for place in range(len(names))])
    totals = [math.fsum(row) for row in layers]
    order = sorted(range(len(names)), key=lambda place: (-totals[place], place))
    groups = [[place] for place in order[:_MOST_MODELS]]
    if others := order[_MOST_MODELS:]:
        groups.append(others)
    title = "What each model gives, layer by layer"
    top, height = _LINE * (len(groups) + 2), 220
    drawing = Drawing(_WIDTH, top + height + 3 * _LINE, title)
    drawing.text(8, _LINE, f"{title}: its share of the squared norm of all changes that the merge keeps", size=14)
    for line, group in enumerate(groups):
        share = math.fsum(totals[place] for place in group) / math.fsum(totals)
        name = cut(names[group[0]], 80) if len(group) == 1 else f"{len(group)} others"
        drawing.box(8, _LINE * (line + 1) + 9, 12, 12, _hue(line, group))
        drawing.text(28, _LINE * (line + 2), f"{percent(share)} of the whole: {name}")
    step = (_WIDTH - _LEFT - 10) / len(grid.layers)
    for column in range(len(grid.layers)):
        whole, below = math.fsum(layers[:, column]), float(top + height)
        for line, group in enumerate(groups):
            part = height * math.fsum(layers[group, column]) / whole if whole else 0.0
            below -= part
            drawing.box(_LEFT + step * column, below, step * 0.92, part, _hue(line, group))
    for share in (0, 50, 100):
        drawing.text(_LEFT - 8, top + height * (1 - share / 100) + 4, f"{share}%", anchor="end")
    for column in range(0, len(grid.layers), _stride(len(grid.layers), 24)):
        drawing.text(_LEFT + step * (column + 0.46), top + height + 16, grid.layers[column], anchor="middle", size=11)
    drawing.text(_LEFT - 8, top + height + 16, "layer", anchor="end")
    return Picture(SHARES_NAME, title, drawing.to_bytes())


def _sum_of(squares: NDArray[np.float64], rows: NDArray[np.int64]) -> float:
    return math.fsum(squares[rows])


def _changes(changes: NDArray[np.float64], grid: Grid) -> Picture:
    """Draw a cell for each layer and kind of tensor; of many kinds, those with the largest changes."""
    from dovetail.engine.output.svg import Drawing, cut

    shown = sorted(np.argsort(-np.nan_to_num(changes).max(axis=0), kind="stable")[:_MOST_KINDS].tolist())
    scale = _Scale(changes[:, shown])
    title = "Where the merge changes the base model"
    row = max(6, min(20, 400 // len(grid.layers)))
    top, room = 2 * _LINE + 30, 130
    bottom = top + row * len(grid.layers)
    drawing = Drawing(_WIDTH, bottom + room, title)
    drawing.text(8, _LINE, f"{title}: root mean square of the change of a weight", size=14)
    for place in range(64):
        drawing.box(_LEFT + 4 * place, _LINE + 16, 4.5, 12, _cividis(place / 63))
    drawing.text(_LEFT - 8, _LINE + 27, f"{scale.least:.2g}", anchor="end")
    drawing.text(_LEFT + 4 * 64 + 8, _LINE + 27, f"{scale.most:.2g}")
    if len(shown) < len(grid.kinds):
        told = f"the {len(shown)} kinds of tensors with the largest changes, of {len(grid.kinds)}"
        drawing.text(_LEFT + 4 * 64 + 190, _LINE + 27, told)
    if (changes[:, shown] == 0).any():
        drawing.box(_LEFT + 4 * 64 + 70, _LINE + 16, 12, 12, _HUES[-1])
        drawing.text(_LEFT + 4 * 64 + 88, _LINE + 27, "no change")
    step = (_WIDTH - _LEFT - 10) / len(shown)
    for down in range(len(grid.layers)):
        for across, kind in enumerate(shown):
            if not math.isnan(value := float(changes[down, kind])):
                color = _cividis(scale.place(value)) if value else _HUES[-1]
                drawing.box(_LEFT + step * across, top + row * down, step - 1, row - (1 if row > 8 else 0), color)
    for down in range(0, len(grid.layers), _stride(len(grid.layers), max(1, row * len(grid.layers) // 14))):
        drawing.text(_LEFT - 8, top + row * (down + 0.5) + 4, grid.layers[down], anchor="end", size=11)
    for across, kind in enumerate(shown):
        drawing.text(
            _LEFT + step * (across + 0.5) + 4, bottom + 14, cut(grid.kinds[kind], 28), anchor="end", size=11, turn=-40
        )
    return Picture(CHANGES_NAME, title, drawing.to_bytes())


class _Scale:
    """From the least change to the most, by powers: kinds of tensors can differ a thousandfold.

    Parameters
    ----------
    changes
        All changes, of which those of nothing are not on the scale.

    """

    def __init__(self, changes: NDArray[np.float64]) -> None:
        found = changes[np.isfinite(changes) & (changes > 0)]
        self.least, self.most = (float(found.min()), float(found.max())) if found.size else (0.0, 0.0)

    def place(self, change: float) -> float:
        """Give the place of a change on the scale, from 0 to 1."""
        return math.log(change / self.least) / math.log(self.most / self.least) if self.least < self.most else 1.0


def _hue(line: int, group: Sequence[int]) -> str:
    return _HUES[line] if len(group) == 1 and line < _MOST_MODELS else _HUES[-1]


def _stride(count: int, most: int) -> int:
    """Give how many names to go on by, so that at most so many are written."""
    return -(-count // most)


def _cividis(share: float) -> str:
    """Give the colour of a share from 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(_CIVIDIS) - 1)
    low = min(int(place), len(_CIVIDIS) - 2)
    mixed = (a + (b - a) * (place - low) for a, b in zip(_CIVIDIS[low], _CIVIDIS[low + 1], strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in mixed)
