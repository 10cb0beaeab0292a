"""Prefixes by which one model calls the same tensors otherwise than another, as exports and versions differ.

``model.layers.0.mlp.up_proj.weight`` of a language model is ``model.language_model.layers.0.mlp.up_proj.weight`` in a
model that sees, and ``language_model.model.layers...`` in an older export of that. Nothing here knows these words: a
stack of layers is another's under a new prefix if it has no tensor that the other lacks. Where two would fit, or names
would meet, nothing is renamed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dovetail.engine.recipe.layers import parse_layer

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Renaming:
    """Names of a checkpoint's tensors as another checkpoint has them."""

    names: Mapping[str, str]
    """The other's name for every tensor that has another there."""
    prefixes: tuple[tuple[str, str], ...]
    """What stacks of layers are called, before and after."""


def find_renaming(
    ours: Mapping[str, Shape], reference: Mapping[str, Shape], passed_over: Collection[str] = ()
) -> Renaming | None:
    """Find the one way to call a checkpoint's tensors as another does.

    Parameters
    ----------
    ours
        Its tensors.
    reference
        The other's.
    passed_over
        Beginnings of names of either that do not have to fit: experts may be stored otherwise.

    Returns
    -------
    Renaming or None
        None where nothing is to be renamed, or no one way is found.

    """
    stacks = _like_stacks(ours, reference, passed_over)
    rules = dict(_cut_alike(old, new) for old, new in stacks.items())
    if not rules:
        return None
    ordered = sorted(rules.items(), key=lambda rule: -len(rule[0]))
    names: dict[str, str] = {}
    free = [name for name in reference if name not in ours and parse_layer(name) is None]
    for name in ours:
        if name in reference:
            continue
        layer = parse_layer(name)
        if layer is None:
            new = _loose_name(name, ordered, reference, free)
        else:
            new = stacks[layer.stack] + name.removeprefix(layer.stack) if layer.stack in stacks else None
        if new is not None:
            names[name] = new
    taken = [names.get(name, name) for name in ours]
    if len(set(taken)) != len(taken):
        return None
    return Renaming(names, tuple(sorted(rules.items())))


def _loose_name(name: str, rules: list[tuple[str, str]], reference: Mapping[str, Shape], free: list[str]) -> str | None:
    """Name a tensor outside the layers: by the prefix of a stack, else by the only name that ends as it does."""
    for old, new in rules:
        if name.startswith(old) and new + name.removeprefix(old) in reference:
            return new + name.removeprefix(old)
    ending = [each for each in free if each.endswith(f".{name}") or name.endswith(f".{each}")]
    return ending[0] if len(ending) == 1 else None


def _like_stacks(
    ours: Mapping[str, Shape], reference: Mapping[str, Shape], passed_over: Collection[str]
) -> dict[str, str]:
    """Find for each of a checkpoint's stacks that the other lacks the one of the other's that it is; none if not all
    are found.
    """
    own, others = _stacks(ours, passed_over), _stacks(reference, passed_over)
    found_stacks: dict[str, str] = {}
    for stack, tensors in own.items():
        if stack in others or not tensors:
            continue
        fitting = [
            other
            for other, found in others.items()
            if other not in own and _last_word(other) == _last_word(stack) and tensors.keys() <= found.keys()
        ]
        if len(fitting) > 1:  # of a text and a vision model with layers of one kind, the shapes tell
            fitting = [other for other in fitting if tensors.items() <= others[other].items()]
        if len(fitting) != 1:
            return {}
        found_stacks[stack] = fitting[0]
    return found_stacks if len(set(found_stacks.values())) == len(found_stacks) else {}


def _last_word(stack: str) -> str:
    """Give the word for many layers that a stack's name ends with."""
    return stack.rstrip(".").rpartition(".")[2]


def _stacks(names: Mapping[str, Shape], passed_over: Collection[str]) -> dict[str, dict[str, Shape]]:
    """Give for each stack the tensors that any of its layers has, by what follows the layer's number."""
    starts = tuple(passed_over)
    found: dict[str, dict[str, Shape]] = {}
    for name, shape in names.items():
        layer = parse_layer(name)
        if layer is None:
            continue
        tensors = found.setdefault(layer.stack, {})
        if not (starts and name.startswith(starts)) and layer.suffix not in tensors:
            tensors[layer.suffix] = shape
    return found


def _cut_alike(one: str, other: str) -> tuple[str, str]:
    """Leave of two stacks' names what differs: ``model.layers.`` and ``layers.`` give ``model.`` and nothing."""
    first, second = one.rstrip(".").split("."), other.rstrip(".").split(".")
    while first and second and first[-1] == second[-1]:
        first.pop()
        second.pop()
    return "".join(f"{word}." for word in first), "".join(f"{word}." for word in second)
