"""Bringing a configuration to the layers that slices have stacked.

Nothing here knows an architecture. A key's name shows that it counts layers; the form of a setting shows that
it describes single layers (see `layer_settings`). A setting that gives the kinds of layers by a rule cannot follow the
slices, and a warning names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dovetail.engine.planning.layer_settings import OF_LAYERS, Setting, first_number, take_apart
from dovetail.engine.planning.model_config import COUNT, PREDICTORS, TOTALS, Place, is_model, part_at, parts
from dovetail.engine.recipe import StackedLayers

_RULE: Final = re.compile(
    r"^max_window_layers$|dense_layers?$|^first_k_|"
    r"(?=.*(?:layer|block|attn|attention|moe|window|sparse|hybrid|mlp|global|local))"
    r".*(?:period|freq|interval|offset|pattern|every|_step|start|_end|first|last)|"
    r"(?=.*shared?_.*layers?|.*layers?.*_shared?)"
)
"""Keys that say by a layer's number what kind of layer it is."""
_NO_RULE: Final = re.compile(r"dropout|theta|_size$|token|_dim$|_factor$|_base$|_scale$|time|mask")
"""Keys that do not, though they have such a word."""
_REPEATED: Final = re.compile(r"period|freq|interval|pattern|every|_step")
"""Keys that name a repetition: if it is 1, all layers are of one kind."""


@dataclass(frozen=True, slots=True)
class _Moved:
    """How the layers of one stack have moved, as the configurations see it."""

    stack: StackedLayers
    configs: Sequence[Mapping[str, Any] | None]
    own: int
    old: int
    """Layers of the stack in the checkpoint of the configuration."""

    @property
    def unchanged(self) -> bool:
        """Whether every layer has its old number."""
        return [number for _, number in self.stack.layers] == list(range(self.old))

    def lengths(self, checkpoint: int) -> tuple[int, ...]:
        """Give the lengths that a checkpoint's settings of layers may have."""
        layers = self.old if checkpoint == self.own else self.stack.lengths[checkpoint]
        beyond = self.stack.predictors_of(checkpoint)
        return (layers, layers + beyond) if beyond else (layers,)


def restack(
    config: dict[str, Any], stacks: Sequence[StackedLayers], configs: Sequence[Mapping[str, Any] | None], own: int
) -> list[str]:
    """Bring a configuration to the layers that slices have stacked.

    Parameters
    ----------
    config
        Changed in place.
    stacks
        The stacks of layers.
    configs
        Configurations of all checkpoints.
    own
        Which checkpoint `config` is of.

    Returns
    -------
    list
        What a person should check.

    """
    warnings: list[str] = []
    for stack in stacks:
        old, new = stack.lengths[own] or _declared(config, stack), len(stack.layers)
        moved = _Moved(stack, configs, own, old)
        places = _places(config, stack, old)
        if not places:
            warnings.append(
                f"config.json has no number of layers for {stack.stack}*, which has {new} now: check it before use"
            )
        for place in places:
            part = part_at(config, place)
            assert part is not None
            for key in _counts(part, stack, old):
                part[key] = new
            _count_predictors(part, stack)
            warnings += _follow(part, place, moved, nested=False)
    return warnings


def _count_predictors(part: dict[str, Any], stack: StackedLayers) -> None:
    """Set the number of multi-token-prediction layers, where a checkpoint stores any."""
    for key, value in part.items():
        if PREDICTORS.match(key) and type(value) is int and any(stack.predictors):
            part[key] = stack.kept_predictors


def _follow(part: dict[str, Any], place: Place, moved: _Moved, *, nested: bool) -> list[str]:
    """Let the settings of single layers follow these, and name those that cannot."""
    warnings = []
    first = first_number(part, moved.old)
    for key, value in part.items():
        ours = take_apart(key, value, moved.lengths(moved.own), nested=nested, first=first) if moved.old > 1 else None
        if ours is not None:
            entries = [_entry(key, place, ours, layer, moved, nested=nested) for layer in moved.stack.layers]
            if len(ours.entries) > moved.old and moved.stack.kept_predictors:
                entries += ours.entries[moved.old :]
            part[key] = ours.write(entries)
        elif isinstance(value, dict) and not nested and not is_model(key, value):
            warnings += _follow(value, (*place, key), moved, nested=True)
        elif not moved.unchanged and _stays_behind(key, value, part, nested=nested):
            warnings.append(
                f"config.json says by {key} which layer is of which kind, and slices move layers: check it before use"
            )
    return warnings


def _entry(key: str, place: Place, ours: Setting, layer: tuple[int, int], moved: _Moved, *, nested: bool) -> Any:
    """Give what a setting says of a layer: in the checkpoint that the layer came from, else in our own."""
    checkpoint, number = layer
    part = part_at(moved.configs[checkpoint] or {}, place)
    lengths = moved.lengths(checkpoint)
    if part is not None and key in part:
        first = first_number(part, lengths[0])
        theirs = take_apart(key, part[key], lengths, nested=nested, first=first)
        if theirs is not None and theirs.form == ours.form:
            return theirs.entries[number]
    return ours.entries[min(number, len(ours.entries) - 1)]


def _stays_behind(key: str, value: object, part: Mapping[str, Any], *, nested: bool) -> bool:
    """Whether a setting that did not follow says by a layer's number of which kind it is."""
    if not value or isinstance(value, (bool, float, dict)) or COUNT.match(key) or PREDICTORS.match(key):
        return False
    if isinstance(value, list) or (isinstance(value, str) and "," in value):
        return OF_LAYERS.search(key) is not None and all(isinstance(item, (int, str)) for item in value)
    if nested or _NO_RULE.search(key) or not _RULE.search(key):
        return False
    if _REPEATED.search(key) and value == 1:
        return False
    return not ("window" in key and part.get("use_sliding_window") is False)


def _declared(config: Mapping[str, Any], stack: StackedLayers) -> int:
    """Give the number of layers that a configuration itself says a stack has; 0 if none."""
    words = _words(f"{stack.stack}.{stack.module or ''}")
    found = [
        (not words & _words(".".join(place)), value)
        for place, part in parts(config)
        for key, value in part.items()
        if COUNT.match(key) and type(value) is int
    ]
    return min(found, key=lambda item: item[0], default=(False, 0))[1]


def _counts(part: Mapping[str, Any], stack: StackedLayers, old: int) -> list[str]:
    """Give the keys that count a stack's layers: for a decoder's stack without the encoder's, and conversely."""
    keys = [
        key
        for key, value in part.items()
        if COUNT.match(key) and type(value) is int and (value == old or (stack.module is None and key in TOTALS))
    ]
    words = _words(f"{stack.stack}.{stack.module or ''}") & {"encoder", "decoder"}
    if stack.module is None or not words:
        return keys
    others = {"encoder", "decoder"} - words
    named = [key for key in keys if words & _words(key.replace("_", "."))]
    # Keys that name neither are the encoder's where other keys name the decoder, as in T5, BART and Whisper.
    if "decoder" in words and named:
        return named
    return [key for key in keys if not others & _words(key.replace("_", "."))]


def _places(config: Mapping[str, Any], stack: StackedLayers, old: int) -> list[Place]:
    """Find the parts of a configuration that count the layers of a stack.

    If several do, those whose name has a word in common with the stack or its module; else all that are not named.
    Where none does, a list that says of each layer of which kind it is counts them too.
    """
    found = [place for place, part in parts(config) if _counts(part, stack, old)]
    found = found or [place for place, part in parts(config) if _has_list_of_layers(part, old)]
    if len(found) < 2:
        return found
    words = _words(f"{stack.stack}.{stack.module or ''}")
    named = [place for place in found if place and words & _words(".".join(place))]
    return named or [place for place in found if not place] or found[:1]


def _has_list_of_layers(part: Mapping[str, Any], old: int) -> bool:
    return any(
        isinstance(value, list) and len(value) == old > 1 and OF_LAYERS.search(key) and take_apart(key, value, (old,))
        for key, value in part.items()
    )


def _words(text: str) -> set[str]:
    words = set(re.split(r"[._]+", text.lower())) - {"model", "config", "layers", "layer", "blocks", "block", ""}
    return words | ({"text"} if words & {"language", "text"} else set()) | ({"vision"} if "visual" in words else set())
