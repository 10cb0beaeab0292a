"""Values of a recipe that are marked to be searched: ``weight: {search: [0.1, 2.0]}``.

A mark stands where a parameter's value would: alone, as the value of a filter, or as a point of a gradient. What it
says is read by `dovetail.engine.searching`; to everything else a mark is an error. An alias of a mark is the same mark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from dovetail.engine.recipe.places import Where

MARK_KEY: Final = "search"
"""The key that makes a mapping a mark."""

_LISTS: Final = ("models", "slices", "sources")
"""Keys of a recipe below which lists of mappings may have parameters."""
_ANCHOR = re.compile(r"&\S+\s+")
_ALONE = re.compile(r"^[^#\n]*:[ \t]*\n\s*\Z", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mark:
    """A value that is marked to be searched."""

    places: tuple[Where, ...]
    """Its places in the document: one, or several where aliases repeat it."""
    value: Mapping[str, Any]
    """What it says."""
    start: int
    """Where it begins in the recipe's text, in characters."""
    stop: int
    """One past its last character, blanks and comments after it included."""


def find_marks(document: Node, build: Callable[[Node, Where], Any]) -> tuple[Mark, ...]:
    """Find the marks of a document, in the order of its text.

    Parameters
    ----------
    document
        The document as YAML's nodes, which do not contain themselves.
    build
        Makes the plain value of a node at a place.

    """
    found: dict[int, tuple[MappingNode, list[Where]]] = {}
    for where, parameters in _parameters(document, ()):
        for place, mark in _marked(parameters, where):
            found.setdefault(id(mark), (mark, []))[1].append(place)
    marks = (
        Mark(tuple(places), build(node, places[0]), node.start_mark.index, node.end_mark.index)
        for node, places in found.values()
    )
    return tuple(sorted(marks, key=lambda mark: mark.start))


def replaced(text: str, values: Mapping[tuple[int, int], str]) -> str:
    """Put other text in the places of marks, and leave everything else as it is.

    Parameters
    ----------
    text
        The recipe.
    values
        What replaces a mark, by where it begins and ends; anchors stay.

    """
    for (start, stop), value in sorted(values.items(), reverse=True):
        body = text[start:stop].rstrip()
        anchor = _ANCHOR.match(body)
        before = text[:start]
        if _ALONE.search(before):  # a block that begins on the line after its key
            before = before.rstrip() + " "
        text = before + (f"{anchor.group().rstrip()} " if anchor else "") + value + text[start + len(body) :]
    return text


def _parameters(node: Node, where: Where) -> Iterator[tuple[Where, Node]]:
    """Give the mappings of parameters of a recipe or a part of it."""
    if not isinstance(node, MappingNode):
        return
    for key, value in _pairs(node).items():
        place = (*where, key)
        if key == "parameters":
            yield place, value
        elif key in _LISTS and isinstance(value, SequenceNode):
            for index, item in enumerate(value.value):
                yield from _parameters(item, (*place, index))
        elif key == "modules" and isinstance(value, MappingNode):
            for name, module in _pairs(value).items():
                yield from _parameters(module, (*place, name))


def _marked(node: Node, where: Where) -> Iterator[tuple[Where, MappingNode]]:
    """Give the marks in a mapping of parameters."""
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from _marked(item, (*where, index))
    elif isinstance(node, MappingNode):
        pairs = _pairs(node)
        if MARK_KEY in pairs and "parameters" != where[-1]:
            yield where, node
            return
        for key, value in pairs.items():
            yield from _marked(value, (*where, key))


def _pairs(node: MappingNode) -> dict[str, Node]:
    """Give the values of a mapping by key, those that ``<<`` merges in included."""
    own: dict[str, Node] = {}
    merged: dict[str, Node] = {}
    for key, value in node.value:
        if key.tag.endswith(":merge"):
            for source in value.value if isinstance(value, SequenceNode) else [value]:
                if isinstance(source, MappingNode):
                    merged = _pairs(source) | merged
        elif isinstance(key, ScalarNode):
            own[key.value] = value
    return merged | own
