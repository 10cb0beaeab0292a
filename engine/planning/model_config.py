"""What a merge has to know of a model's config.json: its parts, its numbers of layers, and whether its head is tied.

Nothing here knows an architecture: names show what a key means, and what a nested configuration describes.
`layer_config` brings a configuration to the layers of slices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dovetail.engine.recipe.prediction import UNKNOWN, Depth
from dovetail.io.checkpoint import Checkpoint

COUNT: Final = re.compile(r"^(?:(?:num_|n_)?(?:hidden_|encoder_|decoder_)?layers?|n_layer|depth)$")
"""Keys that count layers."""
TOTALS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Keys that count the layers of a model with one stack, whatever they say."""
PREDICTORS: Final = re.compile(r"^(?=.*(?:mtp|nextn))(?=.*(?:num|layers?|modules?|depth))")
"""Keys that count multi-token-prediction layers, where they are numbers."""
_TIE: Final = "tie_word_embeddings"
_DEEPEST: Final = 4
_OTHER_WORDS: Final = frozenset(
    ("vision", "visual", "image", "video", "audio", "speech", "encoder", "qformer", "projector", "vae", "vq", "codec")
)
"""Words in the names of configurations nested for parts of a model that are not its language model."""

Place = tuple[str, ...]
"""Keys that lead from the top of a configuration to one nested in it."""


def says_tied(config: Mapping[str, Any] | None) -> bool | None:
    """Say whether a configuration ties the output head to the embedding; None if it does not say.

    The top decides, as it does for transformers; the language model's own configuration is asked after it. What other
    parts say is of no account.
    """
    found = [part[_TIE] for _, part in language_parts(config or {}) if isinstance(part.get(_TIE), bool)]
    return found[0] if found else None


def is_untied(checkpoint: Checkpoint) -> bool:
    """Whether a model has a head of its own only since an adapter was applied, whatever its configuration says."""
    return checkpoint.adapter is not None and checkpoint.adapter.unties


def set_tie(config: dict[str, Any], tie: bool) -> None:
    """Say in a configuration whether the head is tied: at the top, and in the language model's own configuration.

    Either decides, depending on the class that loads the model, and neither may be left to a class's default.
    """
    for _, part in language_parts(config):
        part[_TIE] = tie


def depth_of(config: Mapping[str, Any] | None) -> Depth:
    """Give the numbers of layers that a configuration says its language model has.

    What is nested deeper is said of fewer parts of the model, and so counts more. Configurations with numbers for
    encoder and decoder do not say which of them a stack has.
    """
    layers: int | None = None
    predictors = 0
    for _, part in language_parts(config or {}):
        counts = {key: value for key, value in part.items() if type(value) is int}
        if any(COUNT.match(key) and re.search("encoder|decoder", key) for key in counts):
            return UNKNOWN
        layers = next((counts[key] for key in TOTALS if key in counts), layers)
        predictors = predictors or max((value for key, value in counts.items() if PREDICTORS.match(key)), default=0)
    return Depth(layers if layers and layers > 0 else None, max(predictors, 0))


def parts(config: Mapping[str, Any], place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Give a configuration and those nested in it."""
    yield place, config
    for key, value in config.items():
        if (
            isinstance(value, dict)
            and len(place) < _DEEPEST
            and (key.endswith("_config") or key in ("encoder", "decoder"))
        ):
            yield from parts(value, (*place, key))


def is_model(key: str, value: Mapping[str, Any]) -> bool:
    """Whether a mapping in a configuration is the configuration of another model, which has its own layers."""
    return bool(set(key.split("_")) & _OTHER_WORDS) or any(COUNT.match(inner) for inner in value)


def part_at(config: Mapping[str, Any], place: Place) -> dict[str, Any] | None:
    """Give what is nested in a configuration at a place; None if nothing is."""
    for key in place:
        inner = config.get(key)
        if not isinstance(inner, dict):
            return None
        config = inner
    return config if isinstance(config, dict) else None


def language_parts(config: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """Give a configuration, and those nested in it that are a language model's."""
    for place, part in parts(config):
        words = {word for key in place for word in key.split("_")}
        if not place or (not words & _OTHER_WORDS and words & {"text", "language", "llm", "lm", "decoder", "thinker"}):
            yield place, part
