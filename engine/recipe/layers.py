"""Layers from tensors' names, for any architecture: there is no table of architectures.

A *stack* is a list of like layers. Its name is a word for many layers (``layers``, ``layer``, ``h``,
``blocks``, ``block``, or a name that ends in one of them, such as ``resblocks``), and the number after it is
the layer. The first such number in a name counts: ``model.layers.3.mlp.experts.5.w1`` belongs to layer 3, and
T5's ``encoder.block.0.layer.1.norm`` to layer 0. A model may have several stacks (encoder and decoder, vision
and text). Layers for multi-token prediction are in none: see `prediction`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dovetail.engine.recipe.prediction import UNKNOWN, Depth, is_apart, stack_ends

# No leading zeros, so that a name can be put together again from its parts.
_LAYER = re.compile(r"(?:^|\.)(?:[a-z0-9_]*(?:layers?|blocks?)|h)\.(0|[1-9][0-9]{0,8})(?=\.|$)", re.IGNORECASE)

# Words in the names of tensors outside the layers: those of tensors before the layers ...
_BEFORE = re.compile(r"emb|^w[tp]e$|^shared$|(?:^|_)pre$|^patch_|^conv[0-9]*$", re.IGNORECASE)
# ... and those of tensors after them, which win where a component has both (embed_out).
_AFTER = re.compile(
    r"^embed_out$|head|^score$|classifier|pooler|^cls$|^output|(?:^|_)out$|(?:^|_)proj_out$|^vocab_|^final",
    re.IGNORECASE,
)
_NORM = re.compile(r"norm|(?:^|_)ln(?:_|$)", re.IGNORECASE)


class LayerName(NamedTuple):
    """A tensor's name, taken apart at its layer number."""

    stack: str
    """What comes before the number, such as ``model.layers.``."""
    number: int
    """The layer, from 0."""
    suffix: str
    """What comes after the number, such as ``.mlp.up_proj.weight``."""

    def at(self, number: int) -> str:
        """Name of the same tensor in another layer."""
        return f"{self.stack}{number}{self.suffix}"


def parse_layer(name: str) -> LayerName | None:
    """Take a tensor's name apart; None if it belongs to no layer."""
    match = _LAYER.search(name)
    if match is None:
        return None
    return LayerName(name[: match.start(1)], int(match[1]), name[match.end(1) :])


@dataclass(frozen=True, slots=True)
class Stacks:
    """The layers of a checkpoint."""

    lengths: dict[str, int]
    """Number of layers of each stack: one more than its highest number."""
    parsed: dict[str, LayerName]
    """Names of the tensors that are in layers, taken apart, in file order."""
    loose: tuple[str, ...]
    """Names of the tensors outside the layers, in file order."""
    beyond: dict[str, LayerName | None] = field(default_factory=dict)
    """Names of the tensors for multi-token prediction, in file order; taken apart if they are numbered as layers of a
    stack that they follow."""

    def predictors(self, stack: str) -> int:
        """Number of the prediction layers that are numbered on from a stack's last layer."""
        numbers = [layer.number + 1 for layer in self.beyond.values() if layer is not None and layer.stack == stack]
        return max(numbers, default=self.lengths[stack]) - self.lengths[stack]

    @property
    def longest(self) -> int:
        """Number of layers of the longest stack; 0 without layers."""
        return max(self.lengths.values(), default=0)

    def by_layer(self) -> dict[int, list[LayerName]]:
        """Names of the tensors of each layer, all stacks together, in file order."""
        layers: dict[int, list[LayerName]] = {}
        for layer in self.parsed.values():
            layers.setdefault(layer.number, []).append(layer)
        return layers


def find_stacks(names: Iterable[str], depth: Depth = UNKNOWN) -> Stacks:
    """Group tensors' names into stacks of layers.

    Parameters
    ----------
    names
        The names, in file order.
    depth
        What the configuration says of the numbers of layers.

    """
    parsed: dict[str, LayerName] = {}
    beyond: dict[str, LayerName | None] = {}
    loose = []
    apart: dict[str, bool] = {}  # by stack, of which there are few
    for name in names:
        layer = parse_layer(name)
        prefix = name if layer is None else layer.stack
        if (found := apart.get(prefix)) is None:
            found = apart[prefix] = is_apart(prefix)
        if found:
            beyond[name] = None
        elif layer is None:
            loose.append(name)
        else:
            parsed[name] = layer
    ends = stack_ends(parsed.values(), depth)
    if ends:
        far = {name: layer for name, layer in parsed.items() if layer.number >= ends.get(layer.stack, layer.number + 1)}
        beyond |= far
        parsed = {name: layer for name, layer in parsed.items() if name not in far}
    lengths: dict[str, int] = {}
    for layer in parsed.values():
        if layer.number >= lengths.get(layer.stack, 0):
            lengths[layer.stack] = layer.number + 1
    return Stacks(lengths, parsed, tuple(loose), beyond)


def layer_fraction(number: int, count: int) -> float:
    """Position of a layer among `count`: 0 for the first, 1 for the last and, as in mergekit, for an only one."""
    return number / (count - 1) if count > 1 else 1.0


def comes_after_layers(name: str) -> bool:
    """Whether a tensor outside the layers is used after them: final norm, head, pooler.

    Everything else comes before them: embeddings, and whatever is not recognised.
    """
    parts = name.split(".")
    if any(_AFTER.search(part) for part in parts):
        return True
    return not any(_BEFORE.search(part) for part in parts) and any(_NORM.search(part) for part in parts)
