"""Cutting a network down to some kernels: the smaller network, and which part of which tensor each of its tensors is.

A kernel that is not kept gives zeros, because its mask is zero; where the mask acts is said by `mask_places`. For every
node the channels are known that may be other than zero. The smaller network has these alone:

- a convolution has the rows of its kept kernels, and the columns of the channels that it is given;
- activations with f(0) = 0, pools and means pass the same channels on, a multiplication those that both values have;
- an addition has the channels of both values: each gets zeros for the channels that it lacks;
- what is not zero for zero, such as a sigmoid, or a normalisation that stands alone, gets zeros for all that it lacks.

So a module computes what its parent computes masked, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular.network.architecture import Architecture, mask_places, masked_layers
from dovetail.engine.modular.network.node import INPUT, Attribute, Node
from dovetail.engine.modular.network.operations import OPERATIONS

Indices = NDArray[np.int64]
"""Channels, rows or columns of the parent, in the order that the module has them."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The part of one of the parent's tensors that a tensor of the module is."""

    tensor: str
    """Name of the tensor in the parent."""
    rows: Indices | None
    """The indices that are taken along the first dimension; None for all."""
    columns: Indices | None
    """Those along the second dimension, in rising order; None for all."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A network that was cut down."""

    architecture: Architecture
    """The smaller network."""
    parts: Mapping[str, Part]
    """For each of its tensors, by name, what it is of the parent's."""


def cut(architecture: Architecture, kept: Mapping[str, NDArray[np.bool_]], outputs: Sequence[int] | None = None) -> Cut:
    """Cut a network down to some kernels.

    Parameters
    ----------
    architecture
        The parent, with its mask generators if the module is to have them.
    kept : bool[kernels] by layer
        For every masked layer, which of its kernels are kept, at least one.
    outputs
        The logits that are kept, in their new order; None for all.

    Raises
    ------
    ArchitectureError
        A masked layer is missing, unknown or has another number of kernels, nothing is kept of it, or a logit is not
        one of the network's.

    """
    _check_kept(architecture, kept)
    cutting = _Cutting(architecture, kept, outputs)
    for node in architecture.nodes:
        cutting.take(node)
    return cutting.finish()


def _check_kept(architecture: Architecture, kept: Mapping[str, NDArray[np.bool_]]) -> None:
    layers = masked_layers(architecture)
    if set(layers) != set(kept):
        odd = sorted(set(layers) ^ set(kept))[0]
        raise ArchitectureError(
            f"layer {odd!r} is {'not said what to keep of' if odd in layers else 'no masked layer'}",
            f"the convolutions but the first: {', '.join(layers)}",
        )
    for name, mask in kept.items():
        kernels = architecture.shapes[name][0]
        if mask.shape != (kernels,) or not mask.any():
            raise ArchitectureError(
                f"of layer {name!r} {int(mask.sum())} of {list(mask.shape)} kernels are kept",
                f"at least one of {kernels}",
            )


class _Cutting:
    """The smaller network while it grows."""

    def __init__(
        self, architecture: Architecture, kept: Mapping[str, NDArray[np.bool_]], outputs: Sequence[int] | None
    ) -> None:
        self.parent, self.kept, self.outputs = architecture, kept, outputs
        self.places = set(mask_places(architecture).values())
        self.alive: dict[str, Indices] = {INPUT: self.all_of(INPUT)}
        self.names: dict[str, str] = {INPUT: INPUT}
        self.nodes: list[Node] = []
        self.parts: dict[str, Part] = {}
        self.arranged = 0
        self.sliced_output = _is_linear_end(architecture) and outputs is not None

    def all_of(self, name: str) -> Indices:
        """Give all channels of a value."""
        return np.arange(self.parent.shapes[name][0])

    def take(self, node: Node) -> None:
        """Add what the module has of one node."""
        special = _SPECIAL.get(node.kind)
        if special is not None:
            special(self, node)
        elif OPERATIONS[node.kind].keeps_zero:
            self.add(node, self.alive[node.inputs[0]], row_tensors=True)
        else:
            self.add_whole(node)

    def add_whole(self, node: Node) -> None:
        """Add a node that may give something else than zeros for zeros: it needs all channels."""
        everything = self.all_of(node.inputs[0])
        self.add(node, everything, inputs=(self.arrange(node.inputs[0], everything),))

    def add(
        self,
        node: Node,
        alive: Indices,
        *,
        inputs: tuple[str, ...] | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        row_tensors: bool = False,
    ) -> None:
        """Add a node; `row_tensors` says that its tensors have a row for each channel."""
        given = tuple(self.names[name] for name in node.inputs) if inputs is None else inputs
        self.nodes.append(Node(node.name, node.kind, given, attributes or node.attributes, node.tensors))
        self.names[node.name], self.alive[node.name] = node.name, alive
        rows = alive if row_tensors else None
        for tensor in node.tensors.values():
            self.slice(node, tensor, rows, None)

    def slice(self, node: Node, tensor: str, rows: Indices | None, columns: Indices | None) -> None:
        """Note what a tensor is of the parent's; whole dimensions are not taken apart."""
        shape = dict(self.parent.tensors_of(node))[tensor]
        if not shape:
            rows = columns = None
        if rows is not None and np.array_equal(rows, np.arange(shape[0])):
            rows = None
        if columns is not None and len(columns) == shape[1]:
            columns = None
        self.parts[tensor] = Part(tensor, rows, columns)

    def arrange(self, name: str, wanted: Indices) -> str:
        """Give a node with just these channels of a value, and zeros for those that it does not have."""
        alive = self.alive[name]
        if np.array_equal(alive, wanted):
            return self.names[name]
        return self.put_in_order(self.names[name], _positions(alive, wanted))

    def put_in_order(self, source: str, positions: tuple[int, ...]) -> str:
        """Add a node that puts the channels of one of the module's values into another order."""
        while True:
            self.arranged += 1
            name = f"arranged_{self.arranged}"
            if name not in self.parent.shapes:
                break
        self.nodes.append(Node(name, "arrange", (source,), {"positions": positions}))
        return name

    def finish(self) -> Cut:
        """Add the choice of logits, and put everything together."""
        output, shape = self.parent.output, self.parent.shapes[self.parent.output]
        wanted = np.arange(shape[0]) if self.outputs is None else np.array(self.outputs, np.int64)
        if not len(wanted) or wanted.min() < 0 or wanted.max() >= shape[0] or len(set(wanted.tolist())) != len(wanted):
            raise ArchitectureError(f"the logits {wanted.tolist()} are asked for", f"some of 0 to {shape[0] - 1}, once")
        name = self.names[output] if self.sliced_output else self.arrange(output, wanted)
        return Cut(Architecture(self.parent.input_shape, tuple(self.nodes), name), self.parts)


def _is_linear_end(architecture: Architecture) -> bool:
    """Whether the logits come from a linear layer that nothing else takes values of."""
    end = architecture.node(architecture.output)
    return end.kind == "linear" and not architecture.consumers()[end.name]


def _positions(alive: Indices, wanted: Indices) -> tuple[int, ...]:
    """Give for each wanted channel its place among those that are there, or -1."""
    places = np.searchsorted(alive, wanted)
    found = alive[np.minimum(places, len(alive) - 1)] == wanted
    return tuple(int(place) if there else -1 for place, there in zip(places, found, strict=True))


def _convolution(self: _Cutting, node: Node) -> None:
    rows = np.flatnonzero(self.kept[node.name]) if node.name in self.kept else self.all_of(node.name)
    if node.count("groups") > 1:
        _grouped(self, node, rows)
        return
    columns = self.alive[node.inputs[0]]
    sizes = {"in_channels": len(columns), "out_channels": len(rows)}
    self.add(node, rows, attributes={**node.attributes, **sizes}, row_tensors=True)
    self.slice(node, node.tensors["weight"], rows, columns)


def _grouped(self: _Cutting, node: Node, rows: Indices) -> None:
    """Cut a convolution of groups, which must stay equal: those without kernels go, the others keep equally many.

    The channels of a group that stays are all kept, as zeros where they are none of the module's.
    """
    groups = node.count("groups")
    ins, outs = node.count("in_channels") // groups, node.count("out_channels") // groups
    live = np.unique(rows // outs)
    depth = max(int((rows // outs == group).sum()) for group in live)
    taken = []
    for group in live:
        own = rows[rows // outs == group]
        spare = np.setdiff1d(np.arange(group * outs, (group + 1) * outs), own)[: depth - len(own)]
        taken.append(np.sort(np.concatenate([own, spare])))
    computed = np.concatenate(taken)
    given = self.arrange(node.inputs[0], (live[:, None] * ins + np.arange(ins)).reshape(-1))
    sizes = {"in_channels": len(live) * ins, "out_channels": len(computed), "groups": len(live)}
    self.add(node, computed, inputs=(given,), attributes={**node.attributes, **sizes}, row_tensors=True)
    self.names[node.name], self.alive[node.name] = self.arrange(node.name, rows), rows


def _batch_norm(self: _Cutting, node: Node) -> None:
    if node.name not in self.places:
        self.add_whole(node)
        return
    alive = self.alive[node.inputs[0]]
    self.add(node, alive, attributes={**node.attributes, "channels": len(alive)}, row_tensors=True)


def _linear(self: _Cutting, node: Node) -> None:
    columns, rows = self.alive[node.inputs[0]], self.all_of(node.name)
    if self.sliced_output and node.name == self.parent.output:
        assert self.outputs is not None
        rows = np.array(self.outputs, np.int64)
    sizes = {"in_features": len(columns), "out_features": len(rows)}
    self.add(node, rows, attributes={**node.attributes, **sizes}, row_tensors=True)
    self.slice(node, node.tensors["weight"], rows, columns)


def _add(self: _Cutting, node: Node) -> None:
    alive = np.union1d(*(self.alive[name] for name in node.inputs))
    self.add(node, alive, inputs=tuple(self.arrange(name, alive) for name in node.inputs))


def _multiply(self: _Cutting, node: Node) -> None:
    first, second = (self.alive[name] for name in node.inputs)
    alive = np.intersect1d(first, second)
    if not len(alive):  # the product is zero everywhere, and one channel of zeros says so
        alive = first[:1]
    self.add(node, alive, inputs=tuple(self.arrange(name, alive) for name in node.inputs))


def _concatenate(self: _Cutting, node: Node) -> None:
    sizes = [self.parent.shapes[name][0] for name in node.inputs]
    starts = np.cumsum([0, *sizes[:-1]])
    alive = [self.alive[name] + start for name, start in zip(node.inputs, starts, strict=True)]
    self.add(node, np.concatenate(alive))


def _flatten(self: _Cutting, node: Node) -> None:
    size = int(np.prod(self.parent.shapes[node.inputs[0]][1:]))
    alive = self.alive[node.inputs[0]]
    self.add(node, (alive[:, None] * size + np.arange(size)).reshape(-1))


def _mask(self: _Cutting, node: Node) -> None:
    source, target = (self.alive[name] for name in node.inputs)
    self.add(node, target)
    self.slice(node, node.tensors["reduce.weight"], None, source)
    for role in ("expand.weight", "expand.bias"):
        self.slice(node, node.tensors[role], target, None)


_SPECIAL: Final[Mapping[str, Callable[[_Cutting, Node], None]]] = {
    "convolution": _convolution,
    "batch_norm": _batch_norm,
    "linear": _linear,
    "add": _add,
    "multiply": _multiply,
    "concatenate": _concatenate,
    "flatten": _flatten,
    "mask": _mask,
}
"""How nodes are cut that do not simply pass on the channels that they are given."""
