"""Values of a method's parameters: checked against the method's table row, ready to be evaluated at a layer.

A gradient is a line through equally spaced points, from 0 at the first layer to 1 at the last; between two
points it is (1 - f) * left + f * right in double precision, as mergekit computes it. Integers are rounded
afterwards, halves up. A gradient of booleans or choices is a step function: between two points it has the value of
the one before, again as in mergekit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import Where, key_path, nearest, one_of, shown
from dovetail.engine.recipe.scalars import read_number, read_switch, read_whole
from dovetail.engine.recipe.settings import ConditionalValue, Scalar

_EXPECTED = {
    "float": "a number that float32 can hold",
    "int": "a whole number below 2^63",
    "bool": "true or false",
    "models": "a list of the models' names",
}
_LARGEST = 3.4028234663852886e38

Scope = Mapping[str, "tuple[Candidate, ...]"]
"""The parameters given at one place of a recipe, by the method's own names."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value that a parameter takes for tensors whose name has `filter` in it."""

    filter: str | None
    """Part of the names; None for all."""
    kind: str
    """The parameter's kind."""
    points: tuple[Scalar, ...]
    """One value, or the points of a gradient."""

    def at(self, fraction: float) -> Scalar | tuple[Scalar, ...]:
        """Evaluate at a layer, given as its fraction of the way from the first to the last."""
        points = self.points
        if self.kind == "models":
            return points
        if len(points) == 1 and not isinstance(points[0], float):
            return points[0]
        scaled = fraction * (len(points) - 1)
        left = int(scaled)
        if self.kind in ("choice", "bool"):
            return points[left]
        right = min(left + 1, len(points) - 1)
        part = scaled - left
        value = (1 - part) * float(points[left]) + part * float(points[right])
        return math.floor(value + 0.5) if self.kind == "int" else value


def check_parameters(
    given: Mapping[str, ConditionalValue],
    method: Method,
    where: Where,
    origin: Origin,
    level: Literal["merge", "model"] = "merge",
) -> dict[str, tuple[Candidate, ...]]:
    """Check the parameters given at one place of a recipe.

    Parameters
    ----------
    given
        Values by the names that the recipe uses.
    method
        The method that is to take them.
    where
        Place of the mapping.
    origin
        The recipe, for errors.
    level
        Whether they are given for the merge (or a part of it) or for one model.

    Returns
    -------
    dict
        Values by the method's own names.

    Raises
    ------
    RecipeError
        An unknown parameter, one that cannot be given here, two names of one parameter that disagree, or a
        value that is not of the parameter's kind.

    """
    known = {name: row for row in method.parameters for name in (row.name, *row.synonyms)}
    found: dict[str, tuple[Candidate, ...]] = {}
    names: dict[str, str] = {}
    for name, setting in given.items():
        place = (*where, name)
        row = known.get(name)
        if row is None:
            usable = [row.name for row in method.parameters if level == "merge" or row.scope == "model"]
            raise origin.error(
                place,
                f"{key_path(place)} is not a parameter of {method.name}",
                one_of(usable) if usable else "no parameters here",
                nearest(name, known),
            )
        if level == "model" and row.scope == "merge":
            raise origin.error(
                place,
                f"{key_path(place)} is given for one model",
                "one value for the whole merge",
                "move it to the parameters at the top of the recipe",
            )
        candidates = _check_setting(setting, row, place, origin)
        if found.setdefault(row.name, candidates) != candidates:
            raise origin.error(
                place,
                f"{key_path(place)} and {names[row.name]!r} are one parameter and differ",
                "one value",
                "remove one of them",
            )
        names[row.name] = name
    return found


def _check_setting(setting: ConditionalValue, row: Parameter, where: Where, origin: Origin) -> tuple[Candidate, ...]:
    if row.kind == "models" and (setting.listed or not isinstance(setting.branches[0].value, tuple)):
        raise origin.error(where, f"{key_path(where)} is not a list of names", _EXPECTED["models"])
    candidates = []
    for i, branch in enumerate(setting.branches):
        place = where
        if setting.listed:
            place = (*where, i, "value") if len(setting.branches) > 1 else (*where, "value")
        values = branch.value if isinstance(branch.value, tuple) else (branch.value,)
        alone = not isinstance(branch.value, tuple)
        points = tuple(
            _check_scalar(value, row, place if alone else (*place, k), origin, alone=alone)
            for k, value in enumerate(values)
        )
        candidates.append(Candidate(branch.filter, row.kind, points))
    return tuple(candidates)


def _check_scalar(value: Scalar, row: Parameter, where: Where, origin: Origin, *, alone: bool) -> Scalar:
    """Bring one value to the parameter's kind; the points of an integer gradient need not be whole."""
    checked: Scalar | None = None
    if row.kind == "bool":
        checked = read_switch(value)
    elif row.kind == "choice":
        checked = value if isinstance(value, str) and value in row.choices else None
    elif row.kind == "models":
        checked = value if isinstance(value, str) else None
    elif row.kind == "float" or not alone:
        number = read_number(value)
        checked = float(number) if number is not None and abs(number) <= _LARGEST else None
    else:
        checked = read_whole(value)
    if checked is None:
        expected = one_of(row.choices) if row.kind == "choice" else _EXPECTED[row.kind]
        hint = nearest(value, row.choices) if row.kind == "choice" and isinstance(value, str) else ""
        raise origin.error(where, f"{key_path(where)} is {shown(value)}", expected, hint)
    return checked
