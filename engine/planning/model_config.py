"""What a merge has to know of a model's config.json, and to change in the output's: layers and tied heads.

Nothing here knows an architecture. Layer counts are told by their keys' names, settings of single layers by being lists
with one entry for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dovetail.engine.recipe import StackedLayers

_COUNT = re.compile(r"^(?:(?:num_|n_)?(?:hidden_|encoder_|decoder_)?layers?|n_layer|depth)$")
_TOTALS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Keys that count the layers of a model with one stack, whatever they say."""
_BY_NUMBER: Final = (
    "max_window_layers", "sliding_window_pattern", "full_attention_interval", "attn_layer_period", "attn_layer_offset",
    "expert_layer_period", "expert_layer_offset", "first_k_dense_replace", "decoder_sparse_step", "mlp_only_layers",
    "moe_layer_freq", "interleave_moe_layer_step", "no_rope_layer_interval", "global_attn_every_n_layers",
)  # fmt: skip
"""Keys that say by a layer's number what kind of layer it is."""
_OTHER_LIST = re.compile(r"^architectures$|_ids?$|token|section")
"""Lists that are not of layers, however many entries they have."""
_TIE: Final = "tie_word_embeddings"
_DEEPEST: Final = 4

_Place = tuple[str, ...]


def says_tied(config: Mapping[str, Any] | None) -> bool | None:
    """Say whether a configuration ties the output head to the embedding; None if it does not say."""
    found = [part[_TIE] for _, part in _parts(config or {}) if isinstance(part.get(_TIE), bool)]
    return found[0] if found else None


def untie(config: dict[str, Any]) -> None:
    """Say in a configuration that the output head is a tensor of its own."""
    places = [part for _, part in _parts(config) if _TIE in part]
    for part in places or [config]:
        part[_TIE] = False


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
        old, new = stack.lengths[own] or _declared(config), len(stack.layers)
        places = _places(config, stack, old)
        if not places:
            warnings.append(
                f"config.json has no number of layers for {stack.stack}*, which has {new} now: check it before use"
            )
        for place in places:
            part = _at(config, place)
            assert part is not None
            for key in _counts(part, stack, old):
                part[key] = new
            unchanged = [number for _, number in stack.layers] == list(range(old))
            for key, value in part.items():
                if isinstance(value, list) and len(value) == old > 1 and not unchanged and not _OTHER_LIST.search(key):
                    part[key] = [_setting(stack, layer, configs, place, key, value) for layer in stack.layers]
                elif key in _BY_NUMBER and value and not unchanged and part.get("use_sliding_window") is not False:
                    warnings.append(
                        f"config.json says by {key} which layer is of which kind, and slices move layers: check it "
                        "before use"
                    )
    return warnings


def _setting(
    stack: StackedLayers,
    layer: tuple[int, int],
    configs: Sequence[Mapping[str, Any] | None],
    place: _Place,
    key: str,
    ours: Sequence[Any],
) -> Any:
    """Give a single layer's entry of a list: that of the checkpoint it came from, else that of our own list."""
    checkpoint, number = layer
    part = _at(configs[checkpoint] or {}, place)
    theirs = None if part is None else part.get(key)
    if isinstance(theirs, list) and len(theirs) == stack.lengths[checkpoint]:
        return theirs[number]
    return ours[min(number, len(ours) - 1)]


def _declared(config: Mapping[str, Any]) -> int:
    """Give the number of layers that a configuration itself says; 0 if none."""
    return next(
        (
            value
            for _, part in _parts(config)
            for key, value in part.items()
            if _COUNT.match(key) and type(value) is int
        ),
        0,
    )


def _counts(part: Mapping[str, Any], stack: StackedLayers, old: int) -> list[str]:
    """Give the keys that count a stack's layers, those of a decoder and an encoder told apart."""
    keys = [
        key
        for key, value in part.items()
        if _COUNT.match(key) and type(value) is int and (value == old or (stack.module is None and key in _TOTALS))
    ]
    words = _words(f"{stack.stack}.{stack.module or ''}") & {"encoder", "decoder"}
    if stack.module is None or not words:
        return keys
    others = {"encoder", "decoder"} - words
    named = [key for key in keys if words & _words(key.replace("_", "."))]
    # Keys that name neither are the encoder's where a decoder has keys of its own: so in T5, BART and Whisper.
    if "decoder" in words and named:
        return named
    return [key for key in keys if not others & _words(key.replace("_", "."))]


def _places(config: Mapping[str, Any], stack: StackedLayers, old: int) -> list[_Place]:
    """Find the parts of a configuration that count the layers of a stack.

    If several do, those whose name has a word in common with the stack or its module; else all that are not named.
    """
    found = [place for place, part in _parts(config) if _counts(part, stack, old)]
    if len(found) < 2:
        return found
    words = _words(f"{stack.stack}.{stack.module or ''}")
    named = [place for place in found if place and words & _words(".".join(place))]
    return named or [place for place in found if not place] or found[:1]


def _words(text: str) -> set[str]:
    words = set(re.split(r"[._]+", text.lower())) - {"model", "config", "layers", "layer", "blocks", "block", ""}
    return words | ({"text"} if words & {"language", "text"} else set()) | ({"vision"} if "visual" in words else set())


def _parts(config: Mapping[str, Any], place: _Place = ()) -> Iterator[tuple[_Place, Any]]:
    """Give a configuration and those nested in it."""
    yield place, config
    for key, value in config.items():
        if (
            isinstance(value, dict)
            and len(place) < _DEEPEST
            and (key.endswith("_config") or key in ("encoder", "decoder"))
        ):
            yield from _parts(value, (*place, key))


def _at(config: Mapping[str, Any], place: _Place) -> dict[str, Any] | None:
    for key in place:
        inner = config.get(key)
        if not isinstance(inner, dict):
            return None
        config = inner
    return config if isinstance(config, dict) else None
