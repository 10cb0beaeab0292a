"""Networks as data: what is checked, and how they are written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular import (
    INPUT,
    Architecture,
    Node,
    architecture_from_json,
    architecture_to_json,
    hidden_width,
    mask_places,
    masked_layers,
    with_generators,
)


def convolution(name: str, source: str, ins: int, outs: int, groups: int = 1) -> Node:
    """Describe a convolution of windows of 3 by 3."""
    settings = {"in_channels": ins, "out_channels": outs, "groups": groups}
    pairs = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    return Node(name, "convolution", (source,), {**settings, **pairs}, {"weight": f"{name}.weight"})


def normalisation(name: str, source: str, channels: int) -> Node:
    """Describe a BatchNorm without weights of its own."""
    tensors = {role: f"{name}.{role}" for role in ("running_mean", "running_var")}
    return Node(name, "batch_norm", (source,), {"channels": channels, "eps": 1e-5}, tensors)


RESIDUAL = Architecture(
    (3, 8, 8),
    (
        convolution("first", INPUT, 3, 4),
        convolution("second", "first", 4, 4),
        normalisation("norm", "second", 4),
        convolution("third", "norm", 4, 4),
        Node("sum", "add", ("norm", "third")),
        normalisation("last", "third", 4),
        Node("join", "concatenate", ("sum", "last")),
    ),
    "join",
)
"""A network in which one normalisation follows its convolution alone, and one shares it with a sum."""


def test_masks_and_their_places() -> None:
    """All convolutions but the first have masks, behind a normalisation only if nothing else sees what it takes."""
    assert ("second", "third") == masked_layers(RESIDUAL)
    assert {"second": "norm", "third": "third"} == mask_places(RESIDUAL)


def test_shapes_are_inferred() -> None:
    """Every node has the shape of its value for one sample, and every tensor the shape that the node needs."""
    assert {INPUT: (3, 8, 8), "first": (4, 8, 8), "join": (8, 8, 8)}.items() <= RESIDUAL.shapes.items()
    assert {"first.weight": (4, 3, 3, 3), "norm.running_var": (4,)}.items() <= RESIDUAL.tensor_shapes().items()


def test_generators_are_nodes() -> None:
    """A generator reads what its convolution reads and multiplies what its mask multiplies; all others read that."""
    modular = with_generators(RESIDUAL)
    generator = modular.node("mask_generators.third")
    assert ("mask_generators.second", "third") == generator.inputs
    assert ("mask_generators.second", "mask_generators.third") == modular.node("sum").inputs
    assert (4, 4) == modular.tensor_shapes()["mask_generators.third.reduce.weight"]
    assert [127, 64] == [hidden_width(127), hidden_width(128)]


def test_json_gives_the_same_network() -> None:
    """What is written is read again as an equal network, and is JSON of plain values."""
    assert RESIDUAL == architecture_from_json(json.loads(json.dumps(architecture_to_json(RESIDUAL))))


def _set(document: Any, path: str, value: Any) -> None:
    *keys, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    for key in keys:
        document = document[key]
    document[last] = value


HOSTILE = {
    "not an object": ("", [], "the architecture is []"),
    "no list": ("nodes", {}, "nodes of the architecture is {}"),
    "unknown key": ("more", 1, "has 'more'"),
    "no node": ("nodes/0", 7, "node 0 of the architecture is 7"),
    "key of a node": ("nodes/0/code", "x", "has 'code'"),
    "kind": ("nodes/0/kind", "eval", "kind of node 'first' is 'eval'"),
    "input of a node": ("nodes/1/inputs", ["later"], "takes the value of 'later'"),
    "two inputs": ("nodes/1/inputs", ["first", "first"], "takes 2 values; expected 1"),
    "input that is no text": ("nodes/1/inputs", [1], "takes the value of 1"),
    "empty name": ("nodes/0/name", "", "the name of a node is ''"),
    "control characters": ("nodes/0/name", "a\x1b[2J", "the name of a node is"),
    "name of the input": ("nodes/0/name", INPUT, "a node is called '<input>'"),
    "same name": ("nodes/1/name", "first", "two nodes are called 'first'"),
    "huge size": ("nodes/0/attributes/out_channels", 2**31, "out_channels of node 'first'"),
    "huge values": ("input_shape", [2**31, 2**31, 1], "the input has shape"),
    "true for a number": ("nodes/0/attributes/groups", True, "groups of node 'first' (convolution) is True"),
    "no pair": ("nodes/0/attributes/kernel", [3], "kernel of node 'first'"),
    "nested": ("nodes/0/attributes/kernel", [[3], 3], "kernel of node 'first'"),
    "stride of zero": ("nodes/0/attributes/stride", [0, 1], "stride of node 'first'"),
    "window": ("nodes/0/attributes/kernel", [99, 3], "gets [3, 8, 8] for each sample"),
    "no number": ("nodes/2/attributes/eps", "1", "eps of node 'norm'"),
    "infinite": ("nodes/2/attributes/eps", float("inf"), "eps of node 'norm'"),
    "unknown setting": ("nodes/0/attributes/more", 1, "have 'more'"),
    "unknown role": ("nodes/0/tensors/more", "x", "have 'more'"),
    "no role": ("nodes/0/tensors", {}, "lack weight"),
    "no text for a tensor": ("nodes/0/tensors/weight", 1, "the weight of node 'first' (convolution) is 1"),
    "shared tensor": ("nodes/1/tensors/weight", "first.weight", "share tensor 'first.weight'"),
    "channels": ("nodes/1/attributes/in_channels", 5, "5 channels"),
    "output": ("output", "nowhere", "the output is 'nowhere'"),
    "useless": ("output", "sum", "no node uses the value of 'join'"),
    "input shape": ("input_shape", [3, 8], "the input has shape [3, 8]"),
    "no size": ("input_shape", [3, 8, None], "input_shape is [3, 8, None]"),
    "negative size": ("input_shape", [3, -8, 8], "the input has shape [3, -8, 8]"),
}


@pytest.mark.parametrize(("path", "value", "text"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_json_is_refused(path: str, value: Any, text: str) -> None:
    """A damaged or hostile description is an error of one line that names the place."""
    document: Any = json.loads(json.dumps(architecture_to_json(RESIDUAL)))
    if path:
        _set(document, path, value)
    with pytest.raises(ArchitectureError) as caught:
        architecture_from_json(document if path else value)
    assert text in str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_networks_of_too_many_nodes_are_refused() -> None:
    """A file cannot make a reader work without end."""
    document = {"input_shape": [1], "nodes": [{}] * 20_001, "output": "x"}
    with pytest.raises(ArchitectureError, match="has 20,001 nodes; expected at most 20,000"):
        architecture_from_json(document)
