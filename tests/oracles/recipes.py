"""Merging whole recipes by the oracles, with mergekit's rules for slices, parameters, gradients and filters.

Recipes must be well-formed, as the golden and the random ones are: nothing is checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.checkpoints import read_output
from tests.oracles import DEFAULTS, explain
from tests.oracles.result import Array, Result

Settings = Mapping[str, Any]

ALIKE = ("linear", "karcher", "passthrough")
"""Methods that treat a base model like any other model."""
PER_MODEL = ("weight", "density", "gamma", "epsilon", "scale", "tall_mask_lambda")
"""Parameters that have a value for each model."""
SHARED = {"ram": ("epsilon",), "ramplus_tl": ("epsilon",)}
"""Methods in which some of these have only one value."""
FLAGS = ("normalize", "rescale", "int8_mask", "filter_wise", "nuslerp_row_wise", "nuslerp_flatten", "normalize_weights")
"""Parameters that are booleans."""

_LAYER = re.compile(r"^(.*\.(?:layers|layer|h)\.)(\d+)(\..*)$")
_AFTER = re.compile(r"lm_head|norm|ln_f|pooler")


@dataclass(frozen=True)
class Part:
    """A range of layers of a model, in a slice."""

    model: str
    """The model as the recipe names it."""
    start: int
    """First layer."""
    stop: int
    """One past the last layer."""
    own: Settings
    """Parameters that the recipe gives for this model."""


def merge_recipe(
    path: Path, read: Callable[[Path], Mapping[str, Array]] = read_output, **random: Any
) -> dict[str, Result]:
    """Merge a recipe, with paths of models relative to its folder, and give the result of every tensor."""
    recipe = yaml.safe_load(path.read_text())
    method, merge_base = recipe["merge_method"], recipe.get("base_model")
    models = {name: read(path.parent / name) for name in _names(recipe)}
    scopes = [recipe.get("parameters") or {}]
    body = recipe
    for module in (recipe.get("modules") or {}).values():
        body, scopes = module, [module.get("parameters") or {}, *scopes]
    slices = list(_slices(body, models, merge_base, scopes))
    merged: dict[str, Result] = {}
    layer = 0
    for parts, slice_base, shared in slices:
        base = slice_base or merge_base
        count = parts[0].stop - parts[0].start
        for offset in range(count):
            fraction = offset / (count - 1) if count > 1 else 1.0
            for name in _in_layer(models[parts[0].model], parts[0].start + offset):
                before, _, after = name
                sources = [f"{before}{part.start + offset}{after}" for part in parts]
                target = f"{before}{layer}{after}"
                merged[target] = _merge_tensor(method, base, models, parts, sources, target, shared, fraction, random)
            layer += 1
    for name in models[slices[0][0][0].model]:
        if not _LAYER.match(name):
            parts, slice_base, shared = slices[-1 if _AFTER.search(name.replace("embeddings.LayerNorm", "")) else 0]
            base = slice_base or merge_base
            merged[name] = _merge_tensor(method, base, models, parts, [name] * len(parts), name, shared, 0.0, random)
    return merged


def _names(recipe: Settings) -> list[str]:
    bodies = [recipe, *(recipe.get("modules") or {}).values()]
    found = [recipe["base_model"]] if recipe.get("base_model") else []
    for body in bodies:
        found += [each["model"] for each in body.get("models") or []]
        found += [source["model"] for piece in body.get("slices") or [] for source in piece["sources"]]
        found += [piece["base_model"] for piece in body.get("slices") or [] if piece.get("base_model")]
    return list(dict.fromkeys(found))


def _slices(
    body: Settings, models: Mapping[str, Mapping[str, Array]], base: str | None, scopes: list[Settings]
) -> Iterator[tuple[list[Part], str | None, list[Settings]]]:
    if body.get("slices"):
        for piece in body["slices"]:
            parts = [Part(s["model"], *s["layer_range"], s.get("parameters") or {}) for s in piece["sources"]]
            yield parts, piece.get("base_model"), [piece.get("parameters") or {}, *scopes]
        return
    entries = list(body["models"])
    if base and base not in [entry["model"] for entry in entries]:
        entries.append({"model": base})
    depth = 1 + max((int(m[2]) for m in map(_LAYER.match, models[entries[0]["model"]]) if m), default=-1)
    yield [Part(each["model"], 0, depth, each.get("parameters") or {}) for each in entries], None, scopes


def _in_layer(tensors: Mapping[str, Array], layer: int) -> list[tuple[str, int, str]]:
    matches = filter(None, map(_LAYER.match, tensors))
    return [(m[1], layer, m[3]) for m in matches if int(m[2]) == layer]


def _merge_tensor(
    method: str,
    base: str | None,
    models: Mapping[str, Mapping[str, Array]],
    parts: Sequence[Part],
    sources: Sequence[str],
    target: str,
    shared: list[Settings],
    fraction: float,
    random: Mapping[str, Any],
) -> Result:
    """Merge one tensor; `fraction` is its position among the layers of its slice, from 0 to 1."""
    known = {**DEFAULTS[method], **dict.fromkeys(("weight", "t"))}
    each = [key for key in known if key in PER_MODEL and key not in SHARED.get(method, ())]

    def values(keys: Sequence[str], scopes: list[Settings], name: str) -> dict[str, Any]:
        found = {key: _find(key, scopes, name, fraction) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    origin, inputs, own = None, [], []
    for part, source in zip(parts, sources, strict=True):
        tensor = models[part.model][source]
        if part.model == base and method not in ALIKE:
            origin = tensor
        else:
            inputs.append(tensor)
            own.append(values(each, [part.own, *shared], source))
    parameters = values([key for key in known if key not in each], shared, target)
    return explain(method, origin, inputs, parameters, own, **random)


def _find(key: str, scopes: list[Settings], name: str, fraction: float) -> Any:
    for scope in scopes:
        if key in scope and (value := _evaluate(scope[key], name, fraction, key in FLAGS)) is not None:
            return value
    return None


def _evaluate(setting: Any, name: str, fraction: float, steps: bool) -> Any:
    """Evaluate a value, a gradient, or the first branch of a list that has a filter which is part of the name.

    With `steps`, and of words, a gradient is not interpolated.
    """
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if isinstance(setting[0], dict):
        for branch in setting:
            if branch.get("filter") in (None, "*") or branch["filter"] in name:
                return _evaluate(branch["value"], name, fraction, steps)
        return None
    scaled = fraction * (len(setting) - 1)
    left = int(scaled)
    if steps or isinstance(setting[left], str):
        return setting[left]
    right, part = min(left + 1, len(setting) - 1), scaled - left
    return (1 - part) * setting[left] + part * setting[right]
