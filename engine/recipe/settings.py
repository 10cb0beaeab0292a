"""Values of parameters as recipes write them: scalars, gradients, and lists of filtered values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from dovetail.engine.recipe.places import Where, nearest, one_of, shown
from dovetail.engine.recipe.problems import problem

Scalar = bool | int | float | str
"""One value."""

_ITEM_KEYS = ("filter", "value")


@dataclass(frozen=True, slots=True)
class Branch:
    """A value and the tensors that it is for."""

    filter: str | None
    """Part of the tensors' names; None for all tensors."""
    value: Scalar | tuple[Scalar, ...]
    """A scalar, or the points of a gradient over the layers."""


@dataclass(frozen=True, slots=True)
class ConditionalValue:
    """What a recipe gives for one parameter: the first branch whose filter fits a tensor counts."""

    branches: tuple[Branch, ...]
    """At least one."""
    listed: bool
    """Whether it was written as a list of filtered values."""


def parse_value(raw: Any) -> ConditionalValue:
    """Read a parameter's value.

    A list is a gradient if it holds scalars only. In a list of ``{filter, value}`` a bare value may come
    last, for the tensors that no filter fits.

    Raises
    ------
    PydanticCustomError
        Neither a scalar, a gradient nor a list of filtered values.

    """
    if isinstance(raw, dict):
        return ConditionalValue((_parse_item(raw, ()),), listed=True)
    if not isinstance(raw, list) or not any(isinstance(item, dict) for item in raw):
        return ConditionalValue((Branch(None, _parse_plain(raw, ())),), listed=False)
    branches = []
    for i, item in enumerate(raw):
        if not isinstance(item, dict) and i != len(raw) - 1:
            raise problem(f"is {shown(item)}", "filtered values, and a bare value only as the last", path=(i,))
        branches.append(_parse_item(item, (i,)) if isinstance(item, dict) else Branch(None, _parse_plain(item, (i,))))
    return ConditionalValue(tuple(branches), listed=True)


def _parse_item(item: dict[str, Any], path: Where) -> Branch:
    for key in item:
        if key not in _ITEM_KEYS:
            raise problem(
                "is not a key of a filtered value", one_of(_ITEM_KEYS), nearest(key, _ITEM_KEYS), (*path, key)
            )
    if "value" not in item:
        raise problem("has no 'value'", "a value", path=path)
    chosen = item.get("filter")
    if chosen is not None and not isinstance(chosen, str):
        raise problem(f"is {shown(chosen)}", "part of a tensor's name, or '*'", "put it in quotes", (*path, "filter"))
    return Branch(None if chosen == "*" else chosen, _parse_plain(item["value"], (*path, "value")))


def _parse_plain(raw: Any, path: Where) -> Scalar | tuple[Scalar, ...]:
    if isinstance(raw, (bool, int, float, str)):
        return raw
    if not isinstance(raw, list):
        raise problem(f"is {shown(raw)}", "a value, a list of values, or a list of {filter, value}", path=path)
    if not raw:
        raise problem("is an empty list", "at least one value", path=path)
    for i, item in enumerate(raw):
        if not isinstance(item, (bool, int, float, str)):
            raise problem(f"is {shown(item)}", "a value", path=(*path, i))
    return tuple(raw)


def _dump(setting: ConditionalValue) -> Any:
    if not setting.listed:
        return setting.branches[0].value
    return [{"filter": branch.filter, "value": branch.value} for branch in setting.branches]


Setting = Annotated[ConditionalValue, PlainValidator(parse_value), PlainSerializer(_dump)]
"""A conditional value as a field of a pydantic model."""
