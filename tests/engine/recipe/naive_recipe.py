"""What a recipe means, written down from mergekit's documented rules with no regard to speed.

Independent of the engine: it takes the document as YAML gives it, and the architecture's names instead of finding
layers in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.engine.recipe.strategies import RandomRecipe, Stack, Taker


@dataclass(frozen=True)
class Merged:
    """How one output tensor is merged."""

    base: tuple[str, str] | None
    """Checkpoint and tensor of the base model where it is set apart."""
    models: tuple[tuple[str, str], ...]
    """Checkpoint and tensor of each model."""
    parameters: dict[str, Any]
    """Parameters of the merge that have a value."""
    model_parameters: tuple[dict[str, Any], ...]
    """Parameters of each model that have a value."""


def resolve(recipe: RandomRecipe) -> dict[str, Merged]:
    """Give every output tensor, in no particular order."""
    document, architecture = recipe.document, recipe.architecture
    if "modules" in document:
        parts = [(module, name) for name, module in document["modules"].items()]
    else:
        parts = [(document, None)]
    found: dict[str, Merged] = {}
    for part, name in parts:
        above = [part.get("parameters", {}), document.get("parameters", {})] if name else [document["parameters"]]
        if "slices" in part:
            (stack,) = [item for item in architecture.stacks if name in (None, item.module)]
            found |= _slices(part["slices"], stack, name, above, recipe)
        else:
            found |= _models(part["models"], name, above, recipe)
    return found


def _models(models: Sequence[Any], module: str | None, above: list[Any], recipe: RandomRecipe) -> dict[str, Merged]:
    document, architecture = recipe.document, recipe.architecture
    sources = list(models)
    base = document.get("base_model")
    if base is not None and base not in [source["model"] for source in sources]:
        sources.append({"model": base})
    found = {}
    for name, owner in [*architecture.before.items(), *architecture.after.items()]:
        if module in (None, owner):
            found[name] = _merge(name, [name] * len(sources), sources, base, above, 0.0, recipe.taker)
    for stack in architecture.stacks:
        if module not in (None, stack.module):
            continue
        count = recipe.layers["base"][stack.prefix]
        for number in range(count):
            fraction = number / (count - 1) if count > 1 else 1.0
            for suffix in stack.suffixes:
                name = f"{stack.prefix}{number}{suffix}"
                found[name] = _merge(name, [name] * len(sources), sources, base, above, fraction, recipe.taker)
    return found


def _slices(
    slices: Sequence[Any], stack: Stack, module: str | None, above: list[Any], recipe: RandomRecipe
) -> dict[str, Merged]:
    architecture = recipe.architecture
    found: dict[str, Merged] = {}
    for names, piece in ((architecture.before, slices[0]), (architecture.after, slices[-1])):
        for name, owner in names.items():
            if module in (None, owner):
                found[name] = _of_slice(name, [name] * len(piece["sources"]), piece, above, 0.0, recipe)
    number = 0
    for piece in slices:
        first, last = piece["sources"][0]["layer_range"]
        for offset in range(last - first):
            fraction = offset / (last - first - 1) if last - first > 1 else 1.0
            for suffix in stack.suffixes:
                inputs = [f"{stack.prefix}{s['layer_range'][0] + offset}{suffix}" for s in piece["sources"]]
                name = f"{stack.prefix}{number}{suffix}"
                found[name] = _of_slice(name, inputs, piece, above, fraction, recipe)
            number += 1
    return found


def _of_slice(
    name: str, inputs: Sequence[str], piece: Any, above: list[Any], fraction: float, recipe: RandomRecipe
) -> Merged:
    base = piece.get("base_model", recipe.document.get("base_model"))
    scopes = [piece.get("parameters", {}), *above]
    return _merge(name, inputs, piece["sources"], base, scopes, fraction, recipe.taker)


def _merge(
    name: str,
    inputs: Sequence[str],
    sources: Sequence[Any],
    base: str | None,
    scopes: Sequence[Mapping[str, Any]],
    fraction: float,
    taker: Taker,
) -> Merged:
    apart = taker.base in ("origin", "pair") or (taker.base == "optional" and base is not None)
    models, own, origin = [], [], None
    for source, tensor in zip(sources, inputs, strict=True):
        if apart and source["model"] == base:
            origin = (source["model"], tensor)
            continue
        models.append((source["model"], tensor))
        levels = [source.get("parameters", {}), *scopes]
        own.append(_values(taker.model_parameters, levels, tensor, fraction))
    return Merged(origin, tuple(models), _values(taker.merge_parameters, scopes, name, fraction), tuple(own))


def _values(
    kinds: Mapping[str, str], levels: Sequence[Mapping[str, Any]], tensor: str, fraction: float
) -> dict[str, Any]:
    values = {}
    for key, kind in kinds.items():
        for level in levels:
            value = _evaluate(level[key], kind, tensor, fraction) if key in level else None
            if value is not None:
                values[key] = value
                break
    return values


def _evaluate(setting: Any, kind: str, tensor: str, fraction: float) -> Any:
    """Evaluate a scalar, a gradient, or a list of filtered values; None if no filter fits."""
    if not isinstance(setting, list):
        return setting
    if isinstance(setting[0], dict):
        for item in setting:
            if item.get("filter") in (None, "*") or item["filter"] in tensor:
                return _evaluate(item["value"], kind, tensor, fraction)
        return None
    place = fraction * (len(setting) - 1)
    left = int(place)
    if kind == "bool":
        return setting[left]
    right, part = min(left + 1, len(setting) - 1), place - left
    value = (1 - part) * setting[left] + part * setting[right]
    return int(value + 0.5) if kind == "int" else value
