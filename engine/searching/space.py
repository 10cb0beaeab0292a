"""What is searched: for every mark a dimension with its values, and all of them as positions in a unit cube.

Optimisers know the cube alone. A number lies along one edge, evenly or by its logarithm; whole numbers and choices
share an edge in equal parts; an order of k names has k edges, and the names stand in the order of their coordinates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.recipe.places import Where

Value = bool | int | float | str | tuple[str, ...]
"""A value of a parameter; a tuple of names is an order."""
Values = tuple[Value, ...]
"""A candidate: the value of every dimension."""
Position = NDArray[np.float64]
"""A point of the unit cube: a float64 from 0 to 1 for each coordinate."""

DIGITS: Final = 6
"""Significant digits of searched numbers: recipes stay readable, and the text says all of a value."""
MOST_ORDERS: Final = 40_320
"""Most orders that are listed one by one: those of eight names."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One mark: what its value can be."""

    label: str
    """A short name for people, unlike that of any other dimension."""
    parameter: str
    """The parameter's own name."""
    places: tuple[Where, ...]
    """Where the recipe has it."""
    kind: Literal["float", "int", "choice", "order"]
    """How its values lie in the cube."""
    low: float = 0.0
    """Least number."""
    high: float = 0.0
    """Greatest number."""
    log: bool = False
    """Whether numbers are spread by their logarithms."""
    options: tuple[Any, ...] = ()
    """The values of a choice, or the names of an order."""
    start: Value | None = None
    """Where the recipe wants the search to begin; None where it does not say."""

    @property
    def width(self) -> int:
        """Number of its coordinates."""
        return len(self.options) if self.kind == "order" else 1

    @property
    def count(self) -> int | None:
        """Number of its values; None if they are as many as there are floats."""
        if self.kind == "float":
            return None
        if self.kind == "int":
            return int(self.high) - int(self.low) + 1
        return len(self.options) if self.kind == "choice" else math.factorial(len(self.options))

    def value(self, part: Position) -> Value:
        """Give the value at a position; `part` has `width` coordinates from 0 to 1."""
        if self.kind == "order":
            return tuple(self.options[i] for i in np.argsort(part, kind="stable"))
        share = min(1.0, max(0.0, float(part[0])))
        if self.kind == "choice":
            option: Value = self.options[min(int(share * len(self.options)), len(self.options) - 1)]
            return option
        if self.kind == "int":
            low, high = (self.low - 0.5, self.high + 0.5)
            number = math.floor(self._between(low, high, share) + 0.5)
            return int(min(max(number, self.low), self.high))
        return self._rounded(self._between(self.low, self.high, share))

    def position(self, value: Value) -> Position:
        """Give the position of a value, in the middle of all positions that have it."""
        if self.kind == "order":
            assert isinstance(value, tuple)
            places = [value.index(name) for name in self.options]
            return (np.array(places, np.float64) + 0.5) / len(places)
        if self.kind == "choice":
            return np.array([(self.options.index(value) + 0.5) / len(self.options)])
        assert isinstance(value, int | float)
        low, high = (self.low - 0.5, self.high + 0.5) if self.kind == "int" else (self.low, self.high)
        if self.log:
            return np.array([math.log(value / low) / math.log(high / low)])
        return np.array([(value - low) / (high - low)])

    def nearest(self, number: float) -> Value:
        """Give the number within the bounds that is nearest to another; of numbers only."""
        number = min(max(number, self.low), self.high)
        return math.floor(number + 0.5) if self.kind == "int" else self._rounded(number)

    def middle(self) -> Value:
        """Give the value in the middle; the first of a choice, and an order as it stands in the recipe."""
        if self.kind == "order":
            return self.options
        if self.kind == "choice":
            first: Value = self.options[0]
            return first
        return self.value(np.array([0.5]))

    def levels(self, most: int) -> list[Value]:
        """Give at most so many values, spread evenly from the first to the last; all values where that is possible."""
        if self.kind == "order":
            return list(itertools.islice(itertools.permutations(self.options), min(most, MOST_ORDERS)))
        if self.kind == "choice":
            return list(self.options)[:most]
        if most == 1:
            return [self.middle()]
        if self.kind == "int" and self.count is not None and self.count <= most:
            return list(range(int(self.low), int(self.high) + 1))
        numbers = [self._between(self.low, self.high, i / (most - 1)) for i in range(most)]
        return list(dict.fromkeys(self.nearest(number) for number in numbers))

    def _between(self, low: float, high: float, share: float) -> float:
        if self.log:
            return low * math.pow(high / low, share)
        return low + (high - low) * share

    def _rounded(self, number: float) -> float:
        return min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True, slots=True)
class Space:
    """All that is searched."""

    dimensions: tuple[Dimension, ...]
    """The dimensions, in the order of the recipe's text."""

    @property
    def width(self) -> int:
        """Number of coordinates of the cube."""
        return sum(each.width for each in self.dimensions)

    @property
    def labels(self) -> tuple[str, ...]:
        """The dimensions' names for people."""
        return tuple(each.label for each in self.dimensions)

    def values(self, position: Position) -> Values:
        """Give the candidate at a position of `width` coordinates."""
        found, at = [], 0
        for each in self.dimensions:
            found.append(each.value(position[at : at + each.width]))
            at += each.width
        return tuple(found)

    def position(self, values: Sequence[Value]) -> Position:
        """Give the position of a candidate, of `width` coordinates."""
        return np.concatenate([each.position(value) for each, value in zip(self.dimensions, values, strict=True)])
