"""Where tensors belong, by their names: layers and kinds; and figures of all the tensors at one place together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.recipe.layers import parse_layer

OUTSIDE: Final = "outside"
"""What stands in the place of a layer for tensors that are in none."""

MOST_KINDS: Final = 200
"""Kinds of tensors up to which their names stand whole; of more, those whose names end alike are one kind."""


class Places:
    """The layer of every tensor, and the kind of its module.

    Parameters
    ----------
    names
        The tensors' names.

    """

    def __init__(self, names: Sequence[str]) -> None:
        self.layer: list[str] = []
        self.kind: list[str] = []
        stacks = {parsed.stack for name in names if (parsed := parse_layer(name)) is not None}
        for name in names:
            parsed = parse_layer(name)
            if parsed is None:
                self.layer.append(OUTSIDE)
                self.kind.append(_without_numbers(name))
            else:
                self.layer.append(str(parsed.number) if len(stacks) == 1 else f"{parsed.stack}{parsed.number}")
                self.kind.append(_without_numbers(parsed.suffix.lstrip(".")))
        if len(set(self.kind)) > MOST_KINDS:
            self.kind = [".".join(kind.split(".")[-2:]) for kind in self.kind]
        self.layers = sorted(dict.fromkeys(self.layer), key=_natural)
        self.kinds = list(dict.fromkeys(self.kind))


class Grid:
    """Layers by kinds: the tensors in each cell.

    Parameters
    ----------
    places
        Where every tensor belongs.
    chosen
        Whether each tensor counts. Layers and kinds without such tensors are left out.

    """

    def __init__(self, places: Places, chosen: NDArray[np.bool_]) -> None:
        layers = {name: index for index, name in enumerate(places.layers)}
        kinds = {name: index for index, name in enumerate(places.kinds)}
        found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index in np.flatnonzero(chosen):
            found[layers[places.layer[index]], kinds[places.kind[index]]].append(int(index))
        down, across = (sorted({place[axis] for place in found}) for axis in (0, 1))
        self.layers = [places.layers[layer] for layer in down]
        self.kinds = [places.kinds[kind] for kind in across]
        rows, columns = ({number: place for place, number in enumerate(axis)} for axis in (down, across))
        self._cells = {
            (rows[layer], columns[kind]): np.array(indices, np.int64) for (layer, kind), indices in found.items()
        }

    @property
    def cells(self) -> int:
        """Number of cells, empty ones too."""
        return len(self.layers) * len(self.kinds)

    def values(self, value: Callable[[NDArray[np.int64]], float]) -> list[list[float | None]]:
        """Give a figure of the tensors of each cell, one row for each layer; NaN where there are none.

        Parameters
        ----------
        value
            Computes the figure, given the places of the cell's tensors among all.

        """
        found = np.full((len(self.layers), len(self.kinds)), np.nan)
        for cell, indices in self._cells.items():
            found[cell] = value(indices)
        rows: list[list[float | None]] = found.tolist()
        return rows

    def by_layer(self, value: Callable[[NDArray[np.int64]], float]) -> list[float]:
        """Give a figure of the tensors of each layer; see `values`."""
        rows: list[list[NDArray[np.int64]]] = [[] for _ in self.layers]
        for (layer, _), indices in self._cells.items():
            rows[layer].append(indices)
        return [value(np.concatenate(row)) for row in rows]


def joint_norm(norms: NDArray[np.float64]) -> float:
    """Give the norm of all elements of several tensors together, from the norms of each; NaN counts as nothing."""
    return math.hypot(*norms[~np.isnan(norms)])


def ratio(part: float, whole: float) -> float:
    """Divide; NaN where the whole is nothing."""
    return part / whole if whole else math.nan


def joint_density(rows: Any, model: int) -> float:
    """Give the share of elements that a model keeps in several tensors, from the records of these."""
    return float(rows["kept"][:, model].sum() / max(1, rows["elements"].sum()))


def joint_overlap(rows: Any, first: int, second: int) -> float:
    """Give the overlap of two models in several tensors, from the records of these.

    A record has the overlap of its tensor and the numbers of elements kept, from which follows how many both keep.
    """
    sums = (rows["kept"][:, first] + rows["kept"][:, second]).astype(np.float64)
    each = rows["overlap"][:, first, second]
    both = np.nan_to_num(each / (1 + each)) * sums
    either = float((sums - both).sum())
    return ratio(float(both.sum()), either)


def _without_numbers(kind: str) -> str:
    """Put all experts of a layer together."""
    return ".".join("*" if part.isdigit() else part for part in kind.split("."))


def _natural(name: str) -> tuple[Any, ...]:
    stack, _, number = name.rpartition(".")
    return (name == OUTSIDE, stack, int(number)) if number.isdigit() else (name == OUTSIDE, name, 0)
