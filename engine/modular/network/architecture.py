"""A network as data: a graph of layers that needs neither the class that defined it nor torch.

`dovetail.engine.modular.pytorch.tracing.trace` makes one of a network of torch,
`dovetail.engine.modular.network.documents` writes it as JSON and reads it again, and
`dovetail.engine.modular.pytorch.loading` builds a network of torch of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular.network.node import INPUT, Node, Shape, elements
from dovetail.engine.modular.network.operations import OPERATIONS
from dovetail.engine.modular.network.settings import check_node
from dovetail.io.files.strict_json import brief

MOST_NODES: Final = 20_000
"""Most nodes of a network."""

_MOST_ELEMENTS: Final = 2**40  # of one value or tensor; a file that is not trusted must not make sizes overflow


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network: nodes in an order in which they can be computed. Making one checks it, its shapes included.

    Raises
    ------
    ArchitectureError
        A node is not as `OPERATIONS` says, takes what is no earlier node, is used by none, shares a tensor or a name
        with another one, or gets values of shapes that do not fit.

    """

    input_shape: Shape
    """Shape of one sample: (channels, height, width), or (features,)."""
    nodes: tuple[Node, ...]
    """The nodes, each after those that it takes values of."""
    output: str
    """The node that gives the output."""
    shapes: Mapping[str, Shape] = field(init=False, repr=False, compare=False)
    """Shape of every node's value for one sample, and that of `INPUT`."""

    def __post_init__(self) -> None:
        if len(self.nodes) > MOST_NODES:
            raise _wrong(f"the network has {len(self.nodes):,} nodes", f"at most {MOST_NODES:,}")
        if len(self.input_shape) not in (1, 3):
            raise _wrong(f"the input has shape {list(self.input_shape)}", "[channels, height, width] or [features]")
        _check_size("the input", self.input_shape)
        shapes, owners = {INPUT: self.input_shape}, dict[str, str]()
        for node in self.nodes:
            check_node(node)
            self._check_place(node, shapes, owners)
            given = [shapes[name] for name in node.inputs]
            shapes[node.name] = OPERATIONS[node.kind].shape(node, given)
            _check_size(f"the value of node {node.name!r}", shapes[node.name])
            for role, shape in OPERATIONS[node.kind].tensors(node, given).items():
                _check_size(f"the {role} of node {node.name!r}", shape)
        self._check_uses()
        object.__setattr__(self, "shapes", shapes)

    def _check_place(self, node: Node, shapes: Mapping[str, Shape], owners: dict[str, str]) -> None:
        if node.name in shapes:
            raise _wrong(f"two nodes are called {node.name!r}", "a name of its own for each")
        for name in node.inputs:
            if name not in shapes:
                raise _wrong(f"node {node.name!r} takes the value of {brief(name)}", "an earlier node")
        for tensor in node.tensors.values():
            if tensor in owners:
                raise ArchitectureError(
                    f"nodes {owners[tensor]!r} and {node.name!r} share tensor {tensor!r}",
                    "a tensor of its own for each layer",
                    "give each layer its own weights: one that is used twice cannot be cut for both uses",
                )
            owners[tensor] = node.name

    def _check_uses(self) -> None:
        names, used = {node.name for node in self.nodes}, {name for node in self.nodes for name in node.inputs}
        if self.output not in names:
            raise _wrong(f"the output is {brief(self.output)}", "the name of a node")
        if lost := sorted(names - used - {self.output}):
            raise _wrong(f"no node uses the value of {lost[0]!r}", "a network without useless nodes")

    def node(self, name: str) -> Node:
        """Find a node by its name; raises KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def consumers(self) -> dict[str, list[Node]]:
        """Give for every node, and for `INPUT`, the nodes that take its value."""
        found: dict[str, list[Node]] = {name: [] for name in (INPUT, *(node.name for node in self.nodes))}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return found

    def tensor_shapes(self) -> dict[str, Shape]:
        """Give the shape that every tensor must have, by its name in the checkpoint."""
        return {name: shape for node in self.nodes for name, shape in self.tensors_of(node)}

    def tensors_of(self, node: Node) -> Iterator[tuple[str, Shape]]:
        """Give name and shape of each tensor of a node."""
        shapes = OPERATIONS[node.kind].tensors(node, [self.shapes[name] for name in node.inputs])
        return ((name, shapes[role]) for role, name in node.tensors.items())


def masked_layers(architecture: Architecture) -> tuple[str, ...]:
    """Name the convolutions that have masks: all but the first, in order."""
    return tuple(node.name for node in architecture.nodes if node.kind == "convolution")[1:]


def mask_places(architecture: Architecture) -> dict[str, str]:
    """Say where masks act.

    Returns
    -------
    dict
        For every masked convolution the node whose output its mask multiplies: the normalisation that follows, if
        nothing else takes the convolution's output, or else the convolution itself.

    """
    consumers = architecture.consumers()
    places = {}
    for name in masked_layers(architecture):
        after = consumers[name] if name != architecture.output else []
        places[name] = after[0].name if len(after) == 1 and after[0].kind == "batch_norm" else name
    return places


def hidden_width(kernels: int) -> int:
    """Give the hidden width of the mask generator of a convolution of so many kernels (MwT, arXiv:2306.09376)."""
    return kernels if kernels < 128 else kernels // 2


def with_generators(architecture: Architecture) -> Architecture:
    """Add a mask generator to every masked convolution.

    Returns
    -------
    Architecture
        The network with a node ``mask_generators.<convolution>`` of kind ``mask`` behind every place of `mask_places`.
        Its tensors are ``mask_generators.<convolution>.reduce.weight``, ``….expand.weight`` and ``….expand.bias``.

    """
    places = {place: layer for layer, place in mask_places(architecture).items()}
    masked: dict[str, str] = {}
    nodes: list[Node] = []
    ins = {node.name: node.inputs[0] for node in architecture.nodes}
    for node in architecture.nodes:
        given = tuple(masked.get(name, name) for name in node.inputs)
        nodes.append(Node(node.name, node.kind, given, node.attributes, node.tensors))
        if (layer := places.get(node.name)) is not None:
            name = f"mask_generators.{layer}"
            source = masked.get(ins[layer], ins[layer])
            nodes.append(generator_node(name, source, node.name, hidden_width(architecture.shapes[layer][0])))
            masked[node.name] = name
    output = masked.get(architecture.output, architecture.output)
    return Architecture(architecture.input_shape, tuple(nodes), output)


def generator_node(name: str, source: str, target: str, hidden: int) -> Node:
    """Make the node of a mask generator, which reads `source` and multiplies `target`."""
    tensors = {role: f"{name}.{role}" for role in ("reduce.weight", "expand.weight", "expand.bias")}
    return Node(name, "mask", (source, target), {"hidden": hidden}, tensors)


def _check_size(what: str, shape: Shape) -> None:
    if any(type(size) is not int or size < 1 for size in shape) or elements(shape) > _MOST_ELEMENTS:
        raise _wrong(
            f"{what} has shape {brief(list(shape))}", f"sizes from 1 on, and at most {_MOST_ELEMENTS} elements"
        )


def _wrong(what: str, expected: str) -> ArchitectureError:
    return ArchitectureError(what, expected, "trace the network again, or correct the file")
