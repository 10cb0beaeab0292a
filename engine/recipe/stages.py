"""Recipes of several YAML documents: stages that use earlier results by name, and one final merge.

Every document is a recipe. A model whose path is the ``name`` of another document is that document's result. The one
without a name is the final merge; if all have names, the last is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import BaseModel

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method
from dovetail.engine.recipe.load import RecipeSource, build_recipe, parse_documents, parse_recipe, read_origin
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.places import shown
from dovetail.engine.recipe.schema import Recipe
from dovetail.engine.recipe.unused import refuse_unused

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""Names become names of folders."""

MOST_STAGES: Final = 100
"""Most documents of a recipe."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One merge of a recipe of several documents."""

    name: str | None
    """Its name; None for a final merge without one."""
    recipe: Recipe
    """What it merges."""
    needs: tuple[str, ...]
    """Names of the stages whose results it uses."""
    needed: bool
    """Whether the final merge uses its result, at first or second hand, or is it."""


def load_stages(
    source: RecipeSource, methods: Mapping[str, Method] | None = None, *, strict: bool = False
) -> tuple[Stage, ...]:
    """Read a recipe of one or more documents.

    Parameters
    ----------
    source, methods
        As for `load_recipe`.
    strict
        Whether keys without effect are an error, which then names those of all documents.

    Returns
    -------
    tuple
        The stages, each after those that it needs, and the final merge last. A recipe of one document is one stage.

    Raises
    ------
    RecipeError
        Anything is wrong with a document, or with how they name each other.

    """
    origin = read_origin(source)
    documents = parse_documents(origin)
    if len(documents) > MOST_STAGES:
        raise RecipeError(f"{origin.name}: the recipe has {len(documents)} documents", f"at most {MOST_STAGES}")
    if len(documents) < 2:
        recipe = parse_recipe(origin, methods)
        if strict:
            refuse_unused([recipe])
        return (Stage(None, recipe, (), needed=True),)
    recipes = [
        build_recipe(document, replace(origin, document=i, own_text=document.text), methods)
        for i, document in enumerate(documents)
    ]
    if strict:
        refuse_unused(recipes)
    final = _find_final(recipes)
    names = _check_names(recipes)
    needs = {
        i: tuple(dict.fromkeys(ref.path for ref in _references(recipe) if ref.path in names and not ref.revision))
        for i, recipe in enumerate(recipes)
    }
    order = _sort(recipes, names, needs)
    needed = _reach(final, names, needs)
    order = [i for i in order if i != final] + [final]
    # The final output keeps the text of all stages.
    recipes[final] = recipes[final].with_origin(replace(origin, document=final))
    return tuple(Stage(recipes[i].name, recipes[i], needs[i], i in needed) for i in order)


def _find_final(recipes: list[Recipe]) -> int:
    unnamed = [i for i, recipe in enumerate(recipes) if recipe.name is None]
    if len(unnamed) > 1:
        raise recipes[unnamed[1]].origin.error(
            ("merge_method",),
            f"{len(unnamed)} documents have no name",
            "a 'name' in every document but the final merge",
            "name the others",
        )
    return unnamed[0] if unnamed else len(recipes) - 1


def _check_names(recipes: list[Recipe]) -> dict[str, int]:
    names: dict[str, int] = {}
    for i, recipe in enumerate(recipes):
        if recipe.name is None:
            continue
        if not _NAME.fullmatch(recipe.name):
            raise recipe.origin.error(
                ("name",), f"name is {shown(recipe.name)}", "letters, digits, '_', '-' and '.', as of a folder"
            )
        if recipe.name in names:
            raise recipe.origin.error(("name",), f"name {shown(recipe.name)} is given twice", "each name once")
        names[recipe.name] = i
    return names


def _references(value: Any) -> Iterator[ModelRef]:
    """Give every model that a recipe names, wherever it does."""
    if isinstance(value, ModelRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _references(getattr(value, name))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _references(inner)


def _sort(recipes: list[Recipe], names: Mapping[str, int], needs: Mapping[int, tuple[str, ...]]) -> list[int]:
    """Put the documents in an order in which each follows those that it needs."""
    order: list[int] = []
    left = list(range(len(recipes)))
    while left:
        ready = next((i for i in left if all(names[name] in order for name in needs[i])), None)
        if ready is None:
            stuck = [str(recipes[i].name) for i in left if recipes[i].name in {n for k in left for n in needs[k]}]
            raise recipes[left[0]].origin.error(
                ("name",),
                f"the stages {', '.join(stuck)} need each other",
                "stages that can be merged one after another",
                "let one of them use a checkpoint instead",
            )
        order.append(ready)
        left.remove(ready)
    return order


def _reach(final: int, names: Mapping[str, int], needs: Mapping[int, tuple[str, ...]]) -> set[int]:
    found, open_ends = {final}, [final]
    while open_ends:
        for name in needs[open_ends.pop()]:
            if names[name] not in found:
                found.add(names[name])
                open_ends.append(names[name])
    return found
