"""Finding the prefixes under which one model stores the tensors of another: exports and versions differ in them.

``model.layers.0.mlp.up_proj.weight`` of a language model is ``model.language_model.layers.0.mlp.up_proj.weight`` in a
model that sees, and ``language_model.model.layers...`` in an older export of that. Nothing here knows these words: a
stack of layers counts as the other model's stack under a new prefix if that has all of its tensors in the same shapes.
If two stacks would fit, or two tensors would get one name, nothing is renamed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dovetail.engine.recipe.layers import parse_layer

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Renaming:
    """The names that another checkpoint has for a checkpoint's tensors."""

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
    names: dict[str, str] = {}
    loose = []
    for name in ours:
        layer = parse_layer(name)
        if layer is None:
            loose += [] if name in reference else [name]
        elif layer.stack in stacks:
            names[name] = stacks[layer.stack] + name.removeprefix(layer.stack)
    names |= _loose_names(loose, rules, [name for name in reference if name not in ours and not parse_layer(name)])
    taken = [names.get(name, name) for name in ours]
    if len(set(taken)) != len(taken):
        return None
    return Renaming(names, tuple(sorted(rules.items())))


def _loose_names(loose: Sequence[str], rules: Mapping[str, str], free: Sequence[str]) -> dict[str, str]:
    """Name tensors outside the layers: by the prefix of a stack, else by the only name left that ends as they do."""
    names: dict[str, str] = {}
    left = set(free)
    for name in loose:
        for old in sorted(rules, key=len, reverse=True):
            new = rules[old] + name.removeprefix(old)
            if name.startswith(old) and new in left:
                names[name] = new
                left.remove(new)
                break
    for name in loose:
        ending = [each for each in left if each.endswith(f".{name}") or name.endswith(f".{each}")]
        if name not in names and len(ending) == 1:
            names[name] = ending[0]
    return names


def _like_stacks(
    ours: Mapping[str, Shape], reference: Mapping[str, Shape], passed_over: Collection[str]
) -> dict[str, str]:
    """Find, for each stack that only this checkpoint has, the other's stack that it equals under a new prefix.

    A stack that equals none is left out; if a stack could be one of two, no stacks are given at all.
    """
    own, others = _stacks(ours, passed_over), _stacks(reference, passed_over)
    found_stacks: dict[str, str] = {}
    for stack, tensors in own.items():
        if stack in others or not tensors:
            continue
        fitting = [
            other
            for other, found in others.items()
            if other not in own and _last_word(other) == _last_word(stack) and tensors.items() <= found.items()
        ]
        if len(fitting) > 1:
            return {}
        if fitting:
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
    """Cut off the end that two stacks' names share: ``model.layers.`` and ``layers.`` give ``model.`` and nothing."""
    first, second = one.rstrip(".").split("."), other.rstrip(".").split(".")
    while first and second and first[-1] == second[-1]:
        first.pop()
        second.pop()
    return "".join(f"{word}." for word in first), "".join(f"{word}." for word in second)
