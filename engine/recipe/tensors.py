"""Recipes for models that are in memory: the arguments of a call as the dict that a person would write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method
from dovetail.engine.recipe.places import shown
from dovetail.engine.text import counted


def recipe_of(method: Method, names: Sequence[str], base: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Write the recipe that merges models by a method.

    Parameters
    ----------
    method
        The method.
    names
        Names of the models, in their order.
    base
        Name of the base model, which may be one of the models; None for none.
    parameters
        Values by name. A list, or a mapping by the models' names, gives each model its own, if the parameter is one of
        models; everything else counts for all models.

    Raises
    ------
    RecipeError
        A list or mapping does not have one value for each model.

    """
    each: list[dict[str, Any]] = [{} for _ in names]
    for_all: dict[str, Any] = {}
    rows = {key: row for row in method.parameters for key in (row.name, *row.synonyms)}
    for name, given in parameters.items():
        row, value = rows.get(name), _plain(given)
        if row is not None and row.kind == "models" and isinstance(value, list):
            for_all[name] = [names[item] if _is_place(item, names) else item for item in value]
        elif row is not None and row.scope == "model" and isinstance(value, list | tuple | Mapping):
            for mine, own in zip(each, _one_each(name, value, names), strict=True):
                mine[name] = own
        else:
            for_all[name] = value
    models = [{"model": {"model": {"path": name}}, "parameters": own} for name, own in zip(names, each, strict=True)]
    base_model = {} if base is None else {"base_model": {"model": {"path": base}}}
    return {"merge_method": method.name, **base_model, "models": models, "parameters": for_all}


def _plain(value: Any) -> Any:
    """Give arrays of numbers as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _is_place(item: Any, names: Sequence[str]) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(names)


def _one_each(name: str, value: Sequence[Any] | Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Give every model's value of a parameter."""
    if isinstance(value, Mapping):
        if set(value) != set(names):
            raise RecipeError(
                f"{name} has values for {shown(list(value))}",
                f"one for each of {shown(list(names))}",
                f"correct {name}",
            )
        return [value[model] for model in names]
    if len(value) != len(names):
        raise RecipeError(
            f"{name} has {counted(len(value), 'value')}",
            f"one for each of {counted(len(names), 'model')}, or a single number",
            f"correct {name}",
        )
    return list(value)
