"""What a network costs: its parameters, and the multiplications that one image takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetail.engine.modular.network.architecture import Architecture
from dovetail.engine.modular.network.node import Node


@dataclass(frozen=True, slots=True)
class Costs:
    """The size of a network and the work of one image."""

    parameters: int
    """Numbers that were learnt: weights, biases, scales and shifts, mask generators included."""
    multiplications: int
    """Multiply-accumulate operations for one image, in convolutions, linear layers and mask generators; an operation
    is two FLOPs."""


def costs_of(architecture: Architecture) -> Costs:
    """Count what a network costs; its running statistics are no parameters."""
    parameters = multiplications = 0
    for node in architecture.nodes:
        shapes = dict(architecture.tensors_of(node))
        learnt = {role: math.prod(shapes[name]) for role, name in node.tensors.items() if not _is_statistic(role)}
        parameters += sum(learnt.values())
        multiplications += _multiplications(architecture, node, learnt)
    return Costs(parameters, multiplications)


def _multiplications(architecture: Architecture, node: Node, learnt: dict[str, int]) -> int:
    if node.kind == "convolution":  # every weight once at every place
        return learnt["weight"] * math.prod(architecture.shapes[node.name][1:])
    if node.kind == "linear":
        return learnt["weight"]
    if node.kind == "mask":
        return learnt["reduce.weight"] + learnt["expand.weight"]
    return 0


def _is_statistic(role: str) -> bool:
    return role in ("running_mean", "running_var", "num_batches_tracked")
