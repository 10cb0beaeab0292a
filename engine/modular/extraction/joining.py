"""Several networks as one: branches that read the same input, with their logits calibrated and put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.network.architecture import Architecture
from dovetail.engine.modular.network.inputs import InputScale
from dovetail.engine.modular.network.node import INPUT, Node
from dovetail.engine.modular.network.settings import is_number
from dovetail.engine.text import counted

BRANCH: Final = "branches.{}."
"""What stands before the names of all nodes and tensors of a branch."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the logits of one branch are made comparable with those of others: ``logit / temperature + bias``."""

    temperature: float = 1.0
    """What they are divided by, above 0."""
    bias: float = 0.0
    """What is added to them."""

    def __post_init__(self) -> None:
        if not (is_number(self.temperature) and is_number(self.bias) and self.temperature > 0):
            raise RecipeError(
                f"a calibration has temperature {self.temperature} and bias {self.bias}",
                "finite numbers, and a temperature above 0",
            )


def joined(
    branches: Sequence[Architecture],
    calibrations: Sequence[Calibration],
    order: Sequence[int],
    inputs: Sequence[InputScale | None] = (),
) -> Architecture:
    """Make one network of several.

    Parameters
    ----------
    branches
        The networks, all for inputs of one shape, and each with flat logits.
    calibrations
        One for each branch.
    order
        Which of all logits, those of the first branch first, are at which place of the output.
    inputs
        How the inputs of each branch are normalised. The network takes inputs as the first branch does; for others it
        normalises them anew.

    Returns
    -------
    Architecture
        The network: the nodes and tensors of branch i have ``branches.i.`` before their names, and its logits go
        through node ``branches.i.calibration``.

    Raises
    ------
    RecipeError
        The shapes of inputs differ, or some are normalised and of others that is not known, or there is not one
        calibration for each branch.

    """
    if len(calibrations) != len(branches):
        raise RecipeError(counted(len(calibrations), "calibration"), f"{len(branches)}, one for each parent")
    shapes = {branch.input_shape for branch in branches}
    if len(shapes) > 1:
        first, second = sorted(shapes)[:2]
        raise RecipeError(
            f"the modules take inputs of {list(first)} and of {list(second)}",
            "inputs of one shape",
            "compose modules of parents that were trained on images of one size",
        )
    nodes: list[Node] = []
    ends = []
    for index, (branch, calibration) in enumerate(zip(branches, calibrations, strict=True)):
        prefix, source = BRANCH.format(index), INPUT
        if inputs and inputs[index] != inputs[0]:
            source = f"{prefix}inputs"
            nodes.append(_renormalised(source, inputs[index], inputs[0]))
        nodes += [_prefixed(node, prefix, source) for node in branch.nodes]
        settings = {"scale": 1 / calibration.temperature, "shift": float(calibration.bias)}
        nodes.append(Node(f"{prefix}calibration", "affine", (prefix + branch.output,), settings))
        ends.append(nodes[-1].name)
    nodes.append(Node("logits", "concatenate", tuple(ends)))
    if list(order) != list(range(len(order))):
        nodes.append(Node("classes", "arrange", ("logits",), {"positions": tuple(order)}))
    return Architecture(branches[0].input_shape, tuple(nodes), nodes[-1].name)


def _renormalised(name: str, own: InputScale | None, first: InputScale | None) -> Node:
    """Make the node that turns inputs as the first branch takes them into those that another one takes."""
    if own is None or first is None:
        raise RecipeError(
            "of some parents it is known how their inputs are normalised, of others not",
            "that all say so, or none",
            "say so under about.training.normalisation in each parent's modular.json, and extract the modules again",
        )
    factors, shifts = own.seen_from(first)
    return Node(name, "rescale", (INPUT,), {"scale": factors, "shift": shifts})


def _prefixed(node: Node, prefix: str, source: str) -> Node:
    inputs = tuple(source if name == INPUT else prefix + name for name in node.inputs)
    tensors = {role: prefix + name for role, name in node.tensors.items()}
    return Node(prefix + node.name, node.kind, inputs, node.attributes, tensors)
