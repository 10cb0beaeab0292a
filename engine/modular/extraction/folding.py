"""Soft masks as constants: the mean masks of the chosen classes, folded into what follows a convolution.

Where a normalisation follows, its scale and shift are multiplied by the masks, in float32, and rounded once. Where none
does, or one without scale and shift, a node of kind ``scale`` multiplies each channel by its mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.modular.network.architecture import Architecture, mask_places
from dovetail.engine.modular.network.counts import read_whole
from dovetail.engine.modular.network.node import Node
from dovetail.io.arrays import checkpoint_of
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.dtypes import to_numpy


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A network whose masks are constants."""

    architecture: Architecture
    """The network, with nodes ``mask_scales.<convolution>`` where masks could not be folded."""
    tensors: Mapping[str, TensorInfo]
    """The tensors that are made, of all of the parent's kernels, by name: they stand for those of the checkpoint."""


def fold(architecture: Architecture, checkpoint: Checkpoint, masks: Mapping[str, NDArray[np.float64]]) -> Folded:
    """Multiply the channels of masked layers by constant masks.

    Parameters
    ----------
    architecture
        The parent, without mask generators.
    checkpoint
        Its weights.
    masks : float64[kernels] by layer
        The masks.

    """
    made: dict[str, NDArray[Any]] = {}
    scaled: dict[str, str] = {}
    for layer, place in mask_places(architecture).items():
        node, mask = architecture.node(place), masks[layer].astype(np.float32)
        if node.kind == "batch_norm" and {"weight", "bias"} <= set(node.tensors):
            for role in ("weight", "bias"):
                info = checkpoint.tensors[node.tensors[role]]
                values = read_whole(info).astype(np.float32) * mask
                made[info.name] = values.astype(to_numpy(info.dtype))
        else:
            scaled[place] = f"mask_scales.{layer}"
            made[f"mask_scales.{layer}.weight"] = mask
    found = checkpoint_of("masks", made).tensors
    return Folded(_with_scales(architecture, scaled), found)


def _with_scales(architecture: Architecture, scaled: Mapping[str, str]) -> Architecture:
    """Add a node that multiplies channels behind each of some nodes."""
    nodes: list[Node] = []
    for node in architecture.nodes:
        given = tuple(scaled.get(name, name) for name in node.inputs)
        nodes.append(Node(node.name, node.kind, given, node.attributes, node.tensors))
        if (name := scaled.get(node.name)) is not None:
            nodes.append(Node(name, "scale", (node.name,), {}, {"weight": f"{name}.weight"}))
    return Architecture(architecture.input_shape, tuple(nodes), scaled.get(architecture.output, architecture.output))
