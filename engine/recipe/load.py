"""Reading a recipe: from a file or a text to a `Recipe` that fits its method."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method
from dovetail.engine.recipe.dictionary import dictionary_text
from dovetail.engine.recipe.groups import make_parts
from dovetail.engine.recipe.keys import RECIPE
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import key_path, nearest, one_of, shown
from dovetail.engine.recipe.problems import recipe_error
from dovetail.engine.recipe.reader import MAX_TEXT_BYTES, Document, ReadError, read_documents
from dovetail.engine.recipe.schema import Recipe
from dovetail.engine.recipe.unused import notes, without_unused
from dovetail.io.errors import system_limit
from dovetail.io.files.home import expand_home
from dovetail.io.files.smallfile import is_named

RecipeSource = str | os.PathLike[str] | Mapping[str, Any] | Origin
"""A recipe as callers give it: a path, YAML text, a dict, or a text that has been read; see `read_origin`."""


def load_recipe(source: RecipeSource, methods: Mapping[str, Method] | None = None) -> Recipe:
    """Read a recipe and check all that can be checked without its checkpoints.

    Parameters
    ----------
    source
        A path, YAML text, or a dict; see `read_origin`.
    methods
        The table of methods; None for Dovetail's own and those of plug-ins.

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
    return parse_recipe(read_origin(source), methods)


def read_origin(source: RecipeSource) -> Origin:
    """Find the text of a recipe.

    A mapping is a recipe of one document. A string is a path if a file is there or it is a single line; text of
    several lines, or JSON between braces, is the recipe itself. Relative paths of models start from the current folder,
    and if the recipe is a file, else from its folder.

    Raises
    ------
    RecipeError
        There is no such file, it is not text, or the mapping holds what YAML has not.

    """
    if isinstance(source, Origin):
        return source
    if isinstance(source, Mapping):
        return Origin(text=dictionary_text(source), has_lines=False)
    if isinstance(source, str) and _is_text(source):
        return Origin(text=source)
    return _read_file(expand_home(source))


def _is_text(source: str) -> bool:
    stripped = source.strip()
    in_braces = stripped.startswith("{") and stripped.endswith("}")
    return ("\n" in source or in_braces) and not is_named(source)


def parse_recipe(origin: Origin, methods: Mapping[str, Method] | None = None) -> Recipe:
    """Make a recipe from its text; see `load_recipe`."""
    documents = parse_documents(origin)
    if len(documents) != 1:
        raise RecipeError(
            f"{origin.name}: the recipe has {len(documents)} documents", "one", "plan its stages with plan_stages"
        )
    return build_recipe(documents[0], origin, methods)


def parse_documents(origin: Origin) -> list[Document]:
    """Read the documents of a recipe's text as plain values; see `load_recipe` for what it raises."""
    try:
        documents = read_documents(origin.text)
    except ReadError as error:
        raise RecipeError(f"{origin.place(error.line)}: {error.problem}", error.expected) from error
    if not documents:
        raise RecipeError(f"{origin.name}: the recipe is empty", "a recipe as YAML", "write one, or name another file")
    return documents


def build_recipe(document: Document, origin: Origin, methods: Mapping[str, Method] | None = None) -> Recipe:
    """Make a recipe from a document; see `load_recipe` for what it raises."""
    if document.marks:
        raise _unsearched(document, origin)
    data = document.value
    name = data.get("merge_method") if isinstance(data, dict) else None
    method = None
    with suppress(RecipeError):  # the recipe's other mistakes come first
        method = _find_method(name, origin, methods) if isinstance(name, str) else None
    data, unused = without_unused(document, origin, RECIPE, method, partial(_all_methods, methods))
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        # The chain would show pydantic's own report of the whole recipe.
        raise recipe_error(error, data, origin) from None
    recipe = recipe.with_origin(origin, unused)
    try:
        make_parts(recipe, method or _find_method(recipe.merge_method, origin, methods))
    except RecipeError as error:
        raise _explained(error, recipe) from None
    return recipe


def _unsearched(document: Document, origin: Origin) -> RecipeError:
    """Make the error about a value that is marked to be searched, where a recipe must have values."""
    where = document.marks[0].places[0]
    return origin.error(
        where,
        f"{key_path(where)} is marked to be searched",
        "a value",
        "find it by 'dovetail search RECIPE OUT --evaluate COMMAND', or write one",
    )


def _explained(error: RecipeError, recipe: Recipe) -> RecipeError:
    """Add what is said of a key without effect to an error that speaks of such a key: it may just be misplaced."""
    words = re.split(r"\W+", error.what)
    about = [each for each in recipe.unused if each.where[-1] in words]
    if not about:
        return error
    said = notes(about[:1], recipe.origin)[0]
    return RecipeError(error.what, error.expected, f"{error.action}; but {said}" if error.action else said)


def _all_methods(methods: Mapping[str, Method] | None) -> Collection[Method]:
    if methods is None:
        from dovetail.engine.methods.registry import all_methods

        return all_methods().values()
    return methods.values()


def _find_method(name: str, origin: Origin, methods: Mapping[str, Method] | None) -> Method:
    where = ("merge_method",)
    if methods is None:
        # The table imports the kernels, which a caller that passes another table does not need.
        from dovetail.engine.methods.registry import find

        try:
            return find(name)
        except RecipeError as error:
            raise origin.error(where, error.what, error.expected, error.action) from None
    if name not in methods:
        hint = nearest(name, methods)
        raise origin.error(where, f"merge_method is {shown(name)}" + (f" ({hint})" if hint else ""), one_of(methods))
    return methods[name]


def _read_file(path: Path) -> Origin:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and (limit := system_limit(error)) is not None:
            raise limit from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RecipeError(
            f"recipe {shown(str(path))} cannot be read: {reason}", "a readable YAML file", "correct its path"
        ) from error
    return Origin(str(path), _decode(raw, str(path)), path)


def read_standard_input() -> Origin:
    """Read a recipe from standard input; relative paths of its models start from the current folder.

    Raises
    ------
    RecipeError
        There is nothing, or it is not text.

    """
    raw = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
    if not raw.strip():
        raise RecipeError("there is no recipe on standard input", "YAML text", "pipe it in, or name a file")
    return Origin("standard input", _decode(raw, "standard input"))


def _decode(raw: bytes, name: str) -> str:
    """Turn a recipe's bytes into text; raise a RecipeError if they are too many or no text."""
    if len(raw) > MAX_TEXT_BYTES:
        raise RecipeError(f"{name}: the recipe is too large", f"at most {MAX_TEXT_BYTES:,} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{name}: byte {error.start} is not UTF-8 text", "text in UTF-8", "save it in that encoding"
        ) from error
