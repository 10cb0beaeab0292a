"""Recipes given as Python values: into the YAML that a person would write, which is read like any other.

One reader then sees all recipes, with its limits, and the output keeps a recipe file whatever the recipe came from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe.places import Where, key_path, shown
from dovetail.engine.recipe.reader import MAX_DEPTH, MAX_TEXT_BYTES


def dictionary_text(recipe: Mapping[str, Any]) -> str:
    """Write a recipe's values as YAML.

    Parameters
    ----------
    recipe
        Mappings, sequences, text, paths, numbers (those of numpy too), truth values and None.

    Raises
    ------
    RecipeError
        A value is of another type, or the values are nested too deeply.

    """
    # Escaped and unfolded: PyYAML writes some letters, such as U+0085, in a way that it does not read back.
    return yaml.safe_dump(_plain(recipe, ()), sort_keys=False, width=MAX_TEXT_BYTES)


def _plain(value: Any, where: Where) -> Any:
    """Give a value by the types that YAML has, as copies: PyYAML writes what it meets twice as an alias."""
    if len(where) > MAX_DEPTH:
        raise RecipeError("recipe: the values are nested too deeply", f"at most {MAX_DEPTH} levels")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(inner, (*where, str(key))) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(inner, (*where, index)) for index, inner in enumerate(value)]
    raise RecipeError(
        f"recipe: {key_path(where)} is {shown(value)}, of type {type(value).__name__}",
        "text, a path, a number, a truth value, None, a list or a mapping",
        "convert it",
    )


def _key(key: Any, where: Where) -> str:
    if isinstance(key, str):
        return str(key)
    raise RecipeError(f"recipe: a key of {key_path(where)} is {shown(key)}, of type {type(key).__name__}", "text")
