"""From an architecture to a network of torch: an ordinary `torch.fx.GraphModule` of torch's own layers."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import fx, nn
from torch.nn import functional

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular.network.architecture import Architecture
from dovetail.engine.modular.network.node import INPUT, Node, Shape
from dovetail.engine.modular.network.operations import OPERATIONS

_PART: Final = re.compile(r"\w+", re.ASCII)
_TAKEN: Final = frozenset([*dir(fx.GraphModule), *vars(nn.Module())])


def build_network(architecture: Architecture, tensors: Mapping[str, torch.Tensor]) -> fx.GraphModule:
    """Build a network and give it its weights.

    Parameters
    ----------
    architecture
        The network.
    tensors
        Its tensors by their names in the checkpoint, which the network takes over without a copy.

    Returns
    -------
    torch.fx.GraphModule
        The network, in evaluation. Its ``state_dict`` has the names of the architecture's nodes.

    Raises
    ------
    ArchitectureError
        A tensor is missing or has another shape, or a node has a name that no module can have.

    """
    graph, modules, values = fx.Graph(), dict[str, Any](), dict[str, fx.Node]()
    values[INPUT] = graph.placeholder("input")
    state: dict[str, torch.Tensor] = {}
    for node in architecture.nodes:
        for name, shape in architecture.tensors_of(node):
            if name not in tensors or tuple(tensors[name].shape) != shape:
                found = list(tensors[name].shape) if name in tensors else "missing"
                raise ArchitectureError(
                    f"tensor {name!r} is {found}", str(list(shape)), "load the checkpoint that the network belongs to"
                )
        state |= {f"{node.name}.{role}": tensors[name] for role, name in node.tensors.items()}
        given = [values[name] for name in node.inputs]
        shapes = [architecture.shapes[name] for name in node.inputs]
        values[node.name] = _MAKERS[node.kind](_Place(graph, modules, node, given, shapes))
    graph.output(values[architecture.output])
    graph.lint()
    network = fx.GraphModule(modules, graph)
    _forget_constants(network, modules)
    versioned = OrderedDict(state)  # without a version, torch takes a BatchNorm for one of before it counted batches
    versioned._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(versioned, strict=True, assign=True)
    return network.eval()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one node is put into the graph of torch."""

    graph: fx.Graph
    """The graph that grows."""
    modules: dict[str, Any]
    """Layers and single tensors, by their paths."""
    node: Node
    """The node."""
    given: list[fx.Node]
    """What it takes."""
    shapes: list[Shape]
    """The shapes of these for one sample."""

    @property
    def is_image(self) -> bool:
        """Whether the first value has height and width."""
        return len(self.shapes[0]) == 3

    def layer(self, module: nn.Module, suffix: str = "", given: fx.Node | None = None) -> fx.Node:
        """Add a layer."""
        target = self._target(suffix)
        self.modules[target] = module
        return self.graph.call_module(target, (self.given[0] if given is None else given,))

    def attribute(self, suffix: str, value: torch.Tensor) -> fx.Node:
        """Add a tensor by itself."""
        target = self._target(suffix)
        self.modules[target] = value
        return self.graph.get_attr(target)

    def call(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> fx.Node:
        """Add a function of the node's values."""
        return self.graph.call_function(function, (*self.given, *arguments), settings)

    def _target(self, suffix: str) -> str:
        target = self.node.name + suffix
        for part in target.split("."):
            if not _PART.fullmatch(part) or part in _TAKEN or target in self.modules:
                raise ArchitectureError(
                    f"node {target!r} has a name that no module of torch can have",
                    "letters, digits and _ between dots, and a name that neither torch nor another node uses",
                    "rename the module in the network, and trace it again",
                )
        return target


def _convolution(place: _Place) -> fx.Node:
    node = place.node
    ins, outs, groups = node.count("in_channels"), node.count("out_channels"), node.count("groups")
    kernel, stride, padding, dilation = (node.counts(name) for name in ("kernel", "stride", "padding", "dilation"))
    with torch.device("meta"):
        layer = nn.Conv2d(ins, outs, kernel, stride, padding, dilation, groups, bias="bias" in node.tensors)  # type: ignore[arg-type]
    return place.layer(layer)


def _batch_norm(place: _Place) -> fx.Node:
    node = place.node
    make = nn.BatchNorm2d if place.is_image else nn.BatchNorm1d
    affine = "weight" in node.tensors
    if affine != ("bias" in node.tensors):
        raise ArchitectureError(f"node {node.name!r} has only one of weight and bias", "both or none", "trace it again")
    with torch.device("meta"):
        layer = make(node.count("channels"), node.number("eps"), affine=affine)
    if "num_batches_tracked" not in node.tensors:
        del layer.num_batches_tracked
        layer.num_batches_tracked = None
    return place.layer(layer)


def _linear(place: _Place) -> fx.Node:
    node = place.node
    with torch.device("meta"):
        layer = nn.Linear(node.count("in_features"), node.count("out_features"), bias="bias" in node.tensors)
    return place.layer(layer)


def _function(function: Callable[..., Any], **names: str) -> Callable[[_Place], fx.Node]:
    """Call a function with the node's settings; `names` has their names here, by torch's."""
    return lambda place: place.call(function, **{name: place.node.attributes[own] for name, own in names.items()})


def _window(function: Callable[..., Any], *more: str) -> Callable[[_Place], fx.Node]:
    names = {"kernel_size": "kernel", "stride": "stride", "padding": "padding", **{name: name for name in more}}
    return _function(function, **names)


def _mean(place: _Place) -> fx.Node:
    return place.call(torch.mean, dim=(2, 3), keepdim=place.node.attributes["keep"])


def _arrange(place: _Place) -> fx.Node:
    positions, channels, zero = place.node.counts("positions"), place.given[0], place.shapes[0][0]
    if -1 in positions:  # what -1 stands for is put behind the other channels
        channels = place.call(functional.pad, (0, 0, 0, 0, 0, 1) if place.is_image else (0, 1))
    chosen = place.attribute(".positions", torch.tensor([zero if item < 0 else item for item in positions]))
    return place.graph.call_function(torch.index_select, (channels, 1, chosen))


def _affine(place: _Place) -> fx.Node:
    scaled = place.call(torch.mul, place.node.number("scale"))
    return place.graph.call_function(torch.add, (scaled, place.node.number("shift")))


def _rescale(place: _Place) -> fx.Node:
    shape = (-1, 1, 1) if place.is_image else (-1,)
    scale, shift = (
        place.attribute(f".{name}", torch.tensor(place.node.numbers(name)).reshape(shape))
        for name in ("scale", "shift")
    )
    return place.graph.call_function(torch.add, (place.call(torch.mul, scale), shift))


def _scale(place: _Place) -> fx.Node:
    weight = place.attribute(".weight", nn.Parameter(torch.empty(place.shapes[0][0], device="meta")))
    if place.is_image:
        weight = place.graph.call_function(torch.reshape, (weight, (-1, 1, 1)))
    return place.call(torch.mul, weight)


def _mask(place: _Place) -> fx.Node:
    """Build m = ReLU(tanh(W2 ReLU(W1 GAP(x)) + b2)), times the second value (MwT, arXiv:2306.09376)."""
    graph, hidden, channels = place.graph, place.node.count("hidden"), place.shapes[1][0]
    with torch.device("meta"):
        reduce, expand = nn.Linear(place.shapes[0][0], hidden, bias=False), nn.Linear(hidden, channels)
    pooled = graph.call_function(torch.mean, (place.given[0],), {"dim": (2, 3)})
    reduced = graph.call_function(functional.relu, (place.layer(reduce, ".reduce", pooled),))
    expanded = place.layer(expand, ".expand", reduced)
    mask = graph.call_function(functional.relu, (graph.call_function(torch.tanh, (expanded,)),))
    shaped = graph.call_function(torch.reshape, (mask, (-1, channels, 1, 1)))
    return graph.call_function(torch.mul, (place.given[1], shaped))


_MAKERS: Final[Mapping[str, Callable[[_Place], fx.Node]]] = {
    "convolution": _convolution,
    "batch_norm": _batch_norm,
    "linear": _linear,
    "relu": _function(functional.relu),
    "relu6": _function(functional.relu6),
    "leaky_relu": _function(functional.leaky_relu, negative_slope="negative_slope"),
    "elu": _function(functional.elu, alpha="alpha"),
    "silu": _function(functional.silu),
    "gelu": _function(functional.gelu, approximate="approximate"),
    "mish": _function(functional.mish),
    "tanh": _function(torch.tanh),
    "hardswish": _function(functional.hardswish),
    "sigmoid": _function(torch.sigmoid),
    "hardsigmoid": _function(functional.hardsigmoid),
    "softplus": _function(functional.softplus),
    "dropout": lambda place: place.layer(nn.Dropout(place.node.number("p"))),
    "identity": lambda place: place.given[0],
    "max_pool": _window(functional.max_pool2d, "dilation", "ceil_mode"),
    "avg_pool": _window(functional.avg_pool2d, "ceil_mode", "count_include_pad"),
    "adaptive_avg_pool": _function(functional.adaptive_avg_pool2d, output_size="size"),
    "adaptive_max_pool": _function(functional.adaptive_max_pool2d, output_size="size"),
    "add": _function(torch.add),
    "multiply": _function(torch.mul),
    "concatenate": lambda place: place.graph.call_function(torch.cat, (list(place.given), 1)),
    "flatten": lambda place: place.call(torch.flatten, 1),
    "mean": _mean,
    "arrange": _arrange,
    "affine": _affine,
    "rescale": _rescale,
    "scale": _scale,
    "mask": _mask,
}
"""For every kind of node, what puts it into a graph of torch."""


def _forget_constants(network: fx.GraphModule, modules: Mapping[str, Any]) -> None:
    """Keep positions of arrangements and the like out of the ``state_dict``: they are no weights."""
    for target, value in modules.items():
        if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
            owner, _, name = target.rpartition(".")
            network.get_submodule(owner)._non_persistent_buffers_set.add(name)


assert set(_MAKERS) == set(OPERATIONS)
