"""Reading a recipe: from a file or a text to a `Recipe` that fits its method."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method
from dovetail.engine.recipe.groups import make_parts
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import nearest, one_of, shown
from dovetail.engine.recipe.problems import recipe_error
from dovetail.engine.recipe.reader import MAX_TEXT_BYTES, Document, ReadError, read_documents
from dovetail.engine.recipe.schema import Recipe


def load_recipe(path_or_text: str | os.PathLike[str], methods: Mapping[str, Method] | None = None) -> Recipe:
    """Read a recipe and check all that can be checked without its checkpoints.

    Parameters
    ----------
    path_or_text
        A file, or the YAML itself: a string of several lines, or one that begins with ``{``.
    methods
        The table of methods; None for Dovetail's own.

    Returns
    -------
    Recipe
        The recipe, with its text and folder in `Recipe.origin`.

    Raises
    ------
    RecipeError
        Anything is wrong with it. The message names the file, the line, the key path, and the nearest valid
        name.

    """
    return parse_recipe(read_origin(path_or_text), methods)


def read_origin(path_or_text: str | os.PathLike[str]) -> Origin:
    """Read the text of a recipe; see `load_recipe`."""
    if isinstance(path_or_text, str) and ("\n" in path_or_text or path_or_text.lstrip().startswith("{")):
        return Origin(text=path_or_text)
    return _read_file(Path(path_or_text))


def parse_recipe(origin: Origin, methods: Mapping[str, Method] | None = None) -> Recipe:
    """Make a recipe from its text; see `load_recipe`."""
    documents = parse_documents(origin)
    if len(documents) != 1:
        raise RecipeError(
            f"{origin.name}: the recipe has {len(documents)} documents", "one", "merge its stages by load_stages"
        )
    return build_recipe(documents[0].value, origin, methods)


def parse_documents(origin: Origin) -> list[Document]:
    """Read the documents of a recipe's text as plain values; see `load_recipe` for what it raises."""
    try:
        return read_documents(origin.text)
    except ReadError as error:
        place = f"{origin.name}, line {error.line}" if error.line else origin.name
        raise RecipeError(f"{place}: {error.problem}", error.expected) from error


def build_recipe(data: Any, origin: Origin, methods: Mapping[str, Method] | None = None) -> Recipe:
    """Make a recipe from plain values; see `load_recipe` for what it raises."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        # The chain would show pydantic's own report of the whole recipe.
        raise recipe_error(error, data, origin) from None
    recipe = recipe.with_origin(origin)
    make_parts(recipe, _find_method(recipe, _own_methods() if methods is None else methods))
    return recipe


def _own_methods() -> Mapping[str, Method]:
    # The table imports the kernels, which a recipe with a table of its own does without.
    from dovetail.engine.methods.registry import METHODS

    return METHODS


def _find_method(recipe: Recipe, methods: Mapping[str, Method]) -> Method:
    name = recipe.merge_method
    if name not in methods:
        raise recipe.origin.error(
            ("merge_method",), f"merge_method is {shown(name)}", one_of(methods), nearest(name, methods)
        )
    return methods[name]


def _read_file(path: Path) -> Origin:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RecipeError(
            f"recipe {shown(str(path))} cannot be read: {reason}", "a readable YAML file", "correct its path"
        ) from error
    if len(raw) > MAX_TEXT_BYTES:
        raise RecipeError(f"{path}: the recipe is too large", f"at most {MAX_TEXT_BYTES:,} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: byte {error.start} is not UTF-8 text", "text in UTF-8", "save it in that encoding"
        ) from error
    return Origin(str(path), text, path)
