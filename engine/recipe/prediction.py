"""Multi-token prediction: layers that are stored with a model and are not in its stack.

They guess tokens beyond the next one, from what the last layer of the stack gives. Some models keep them apart
(``mtp.layers.0``), others number them on from the stack's last layer: ``model.layers.N`` and on, where the
configuration counts N layers. Such layers are no part of slices, gradients and numbers of layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

_APART: Final = re.compile(r"(?:^|[._])(?:mtp|nextn|multi_token_prediction)(?=[._]|$)", re.IGNORECASE)
"""A component that says so, in what comes before a layer's number."""

_INSIDE: Final = re.compile(r"\.(?:eh_proj|enorm|hnorm|shared_head|mtp_[a-z0-9_]*|nextn_[a-z0-9_]*)(?=\.|$)")
"""A component that only such a layer has: what joins a token's embedding to the last layer's result, or a head."""


class Depth(NamedTuple):
    """What a configuration says of the numbers of layers."""

    layers: int | None
    """Layers of the language model's stack; None if it does not say."""
    predictors: int = 0
    """Multi-token-prediction layers; 0 if it does not say."""


UNKNOWN: Final = Depth(None)
"""What a missing configuration says."""


def is_apart(prefix: str) -> bool:
    """Whether a name, or what comes before its layer's number, says that the tensor is for multi-token prediction."""
    return _APART.search(prefix) is not None


def stack_ends(layers: Iterable[tuple[str, int, str]], depth: Depth = UNKNOWN) -> dict[str, int]:
    """Find the stacks that prediction layers follow under the same name.

    A layer counts as one if it is among a stack's last and has a component that only such layers have. It also counts
    if it lies beyond the language model's layers as the configuration counts them, and either the configuration counts
    at least as many prediction layers, or the layer has a tensor that no layer before has, and its stack is the model's
    only one: a configuration that is merely mistaken makes no layer a prediction layer.

    Parameters
    ----------
    layers
        Every tensor's stack, number and suffix.
    depth
        What the configuration says.

    Returns
    -------
    dict
        By stack, the number of its first prediction layer; stacks without any are left out.

    """
    found: dict[str, dict[int, set[str]]] = {}
    for stack, number, suffix in layers:
        found.setdefault(stack, {}).setdefault(number, set()).add(suffix)
    ends = {}
    for stack, suffixes in found.items():
        end = _first_marked(suffixes)
        if depth.layers is not None and (
            (max(suffixes) < depth.layers + depth.predictors and (len(found) == 1 or _is_text(stack, found)))
            or (len(found) == 1 and _are_unlike(suffixes, depth.layers))
        ):
            end = depth.layers if end is None else min(end, depth.layers)
        if end is not None and 0 < end <= max(suffixes):
            ends[stack] = end
    return ends


def _first_marked(suffixes: Mapping[int, set[str]]) -> int | None:
    """Give the first of a stack's last layers that are all marked; None if the last is not, or all are."""
    first = None
    for number in sorted(suffixes, reverse=True):
        if not any(map(_INSIDE.search, suffixes[number])):
            return first
        first = number
    return None


def _are_unlike(suffixes: Mapping[int, set[str]], end: int) -> bool:
    """Whether each layer from `end` on has a tensor that no layer before has."""
    before = set[str]().union(*(each for number, each in suffixes.items() if number < end))
    return all(each - before for number, each in suffixes.items() if number >= end)


def _is_text(stack: str, stacks: Mapping[str, object]) -> bool:
    """Whether a stack is the language model's: by its name, or as the only one that starts at the model's top."""
    words = re.split(r"[._]", stack.lower())
    named = {"language", "text", "llm"}
    if any(named & set(re.split(r"[._]", other.lower())) for other in stacks):
        return bool(named & set(words))
    return stack in ("model.layers.", "layers.", "transformer.layers.", "transformer.h.")
