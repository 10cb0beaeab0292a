"""One node of a network, and the errors about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dovetail.engine.errors import ArchitectureError

Attribute = bool | int | float | str | tuple[int, ...] | tuple[float, ...]
"""A setting of a node."""

Shape = tuple[int, ...]
"""Shape of one sample's value, without the batch: (channels, height, width) or (features,)."""

INPUT: Final = "<input>"
"""What stands for the network's input among the inputs of nodes; no module can have this name."""


@dataclass(frozen=True, slots=True)
class Node:
    """One layer or operation of a network."""

    name: str
    """Its name, which no other node has; for a layer with tensors the path of its module, such as ``features.3``."""
    kind: str
    """What it computes: a key of `dovetail.engine.modular.network.operations.OPERATIONS`."""
    inputs: tuple[str, ...]
    """The nodes whose outputs it takes, or `INPUT`."""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    """Its settings."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """Names in the checkpoint of its tensors, by their roles, such as ``weight``."""

    def count(self, name: str) -> int:
        """Give an attribute that is an integer."""
        value = self.attributes[name]
        assert isinstance(value, int)
        return value

    def counts(self, name: str) -> tuple[int, ...]:
        """Give an attribute that is a tuple of integers."""
        value = self.attributes[name]
        assert isinstance(value, tuple)
        return tuple(int(item) for item in value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """Give an attribute that is a tuple of numbers."""
        value = self.attributes[name]
        assert isinstance(value, tuple)
        return tuple(float(item) for item in value)

    def number(self, name: str) -> float:
        """Give an attribute that is a number."""
        value = self.attributes[name]
        assert isinstance(value, (int, float))
        return float(value)


def misfit(node: Node, shapes: Sequence[Shape], expected: str) -> ArchitectureError:
    """Make the error for a node whose inputs have shapes that it cannot take."""
    given = " and ".join(str(list(shape)) for shape in shapes[:4]) + (" ..." if len(shapes) > 4 else "")
    return ArchitectureError(
        f"node {node.name!r} ({node.kind}) gets {given} for each sample",
        expected,
        "correct the network, or trace it with an example input of the right size",
    )


def spatial(node: Node, shape: Shape) -> tuple[int, int, int]:
    """Give channels, height and width of a node's input, which must be an image."""
    if len(shape) != 3:
        raise misfit(node, [shape], "channels, height and width")
    return shape[0], shape[1], shape[2]


def flat(node: Node, shape: Shape) -> int:
    """Give the features of a node's input, which must be flat."""
    if len(shape) != 1:
        raise misfit(node, [shape], "features alone: flatten the value, or take its mean over space, first")
    return shape[0]


def elements(shape: Shape) -> int:
    """Count the elements of a value."""
    return math.prod(shape)
