"""Writing a recipe for another folder, from which relative paths of models lead elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from dovetail.engine.recipe.marks import replaced
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.schema import Recipe
from dovetail.engine.searching.reading import literal


def moved_text(text: str, recipes: Sequence[Recipe], folder: Path | None, output: Path) -> str:
    """Write a recipe for another folder: models found from the recipe's folder alone are named from the new one.

    Parameters
    ----------
    text
        The recipe.
    recipes
        What its documents say.
    folder
        The folder of the recipe that it comes from, if there is one.
    output
        The folder in which it will lie.

    """
    if folder is None:
        return text
    names: dict[str, str] = {}
    for ref in (ref for recipe in recipes for ref in recipe.references()):
        moved = ref.model_copy(
            update={"path": _moved(ref.path, folder, output), "lora": ref.lora and _moved(ref.lora, folder, output)}
        )
        names |= _renamed(ref, moved)
    if not names:
        return text
    nodes = (each for node in yaml.compose_all(text, yaml.SafeLoader) for each in _names_in(node))
    spans = {(e.start_mark.index, e.end_mark.index): literal(names[e.value]) for e in nodes if e.value in names}
    return replaced(text, spans)


def _renamed(ref: ModelRef, moved: ModelRef) -> dict[str, str]:
    """Give what replaces a reference, its path and its adapter, where they have moved."""
    pairs = ((str(ref), str(moved)), (ref.path, moved.path), (ref.lora or "", moved.lora or ""))
    return {before: now for before, now in pairs if before != now}


def _moved(path: str, folder: Path, output: Path) -> str:
    here, there = Path(path).expanduser(), folder / Path(path).expanduser()
    if here.exists() or not there.exists():
        return path
    return os.path.relpath(there.resolve(), output.resolve())


def _names_in(node: Node) -> Iterator[ScalarNode]:
    """Give the scalars of a YAML text that are no keys; a text that was read contains nothing that contains itself."""
    if isinstance(node, ScalarNode):
        yield node
    elif isinstance(node, SequenceNode):
        for item in node.value:
            yield from _names_in(item)
    elif isinstance(node, MappingNode):
        for _, value in node.value:
            yield from _names_in(value)
