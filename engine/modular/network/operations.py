"""What the nodes of a network can be: the table of operations, with their settings, tensors and output shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dovetail.engine.modular.network.node import Node, Shape, elements, flat, misfit, spatial

MANY: Final = 100_000
"""More inputs than any node has."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A kind of node."""

    shape: Callable[[Node, Sequence[Shape]], Shape]
    """Gives the output's shape, or raises an ArchitectureError for shapes that do not fit."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Its settings, all of which a node has; for each the name of a check in `settings.CHECKS`."""
    required: tuple[str, ...] = ()
    """Roles of the tensors that it always has."""
    optional: tuple[str, ...] = ()
    """Roles of those that it can have."""
    tensors: Callable[[Node, Sequence[Shape]], Mapping[str, Shape]] = lambda node, shapes: {}
    """Gives the shape of every tensor that it can have, by role."""
    inputs: tuple[int, int] = (1, 1)
    """Least and most values that it takes."""
    keeps_zero: bool = False
    """Whether a channel of nothing but zeros gives zeros, too."""


def _same(node: Node, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _convolution(node: Node, shapes: Sequence[Shape]) -> Shape:
    channels, height, width = spatial(node, shapes[0])
    groups, ins, outs = node.count("groups"), node.count("in_channels"), node.count("out_channels")
    if channels != ins or ins % groups or outs % groups:
        raise misfit(node, shapes, f"{ins} channels, and channels in and out ({outs}) that {groups} groups divide")
    return outs, *_windows(node, shapes, (height, width))


def _windows(node: Node, shapes: Sequence[Shape], size: tuple[int, int]) -> tuple[int, int]:
    """Give height and width of what a window that slides over an image gives."""
    dilation = node.counts("dilation") if "dilation" in node.attributes else (1, 1)
    found = []
    for axis, extent in enumerate(size):
        kernel, stride = node.counts("kernel")[axis], node.counts("stride")[axis]
        padding, reach = node.counts("padding")[axis], dilation[axis] * (kernel - 1) + 1
        room = extent + 2 * padding - reach
        steps = room // stride
        if node.attributes.get("ceil_mode"):  # the last window must begin inside the image or its padding before it
            steps = -(-room // stride)
            steps -= steps * stride >= extent + padding
        if room < 0:
            raise misfit(node, shapes, f"an image at least as large as the window of {reach} along each axis")
        found.append(steps + 1)
    return found[0], found[1]


def _pool(node: Node, shapes: Sequence[Shape]) -> Shape:
    channels, height, width = spatial(node, shapes[0])
    if any(2 * padding > kernel for padding, kernel in zip(node.counts("padding"), node.counts("kernel"), strict=True)):
        raise misfit(node, shapes, "padding of at most half the window")
    return channels, *_windows(node, shapes, (height, width))


def _adaptive(node: Node, shapes: Sequence[Shape]) -> Shape:
    channels, _, _ = spatial(node, shapes[0])
    return channels, *node.counts("size")


def _batch_norm(node: Node, shapes: Sequence[Shape]) -> Shape:
    if shapes[0][0] != node.count("channels"):
        raise misfit(node, shapes, f"{node.count('channels')} channels")
    return shapes[0]


def _linear(node: Node, shapes: Sequence[Shape]) -> Shape:
    if flat(node, shapes[0]) != node.count("in_features"):
        raise misfit(node, shapes, f"{node.count('in_features')} features")
    return (node.count("out_features"),)


def _add(node: Node, shapes: Sequence[Shape]) -> Shape:
    if shapes[0] != shapes[1]:
        raise misfit(node, shapes, "two values of one shape")
    return shapes[0]


def _multiply(node: Node, shapes: Sequence[Shape]) -> Shape:
    first, second = shapes
    if first == second:
        return first
    (channels, *size), (others, *other_size) = first, second
    if channels != others or [1, 1] not in (size, other_size):
        raise misfit(node, shapes, "two values of one shape, or an image and one factor for each of its channels")
    return second if size == [1, 1] else first


def _concatenate(node: Node, shapes: Sequence[Shape]) -> Shape:
    if len({shape[1:] for shape in shapes}) != 1:
        raise misfit(node, shapes, "values that differ in their channels alone")
    return sum(shape[0] for shape in shapes), *shapes[0][1:]


def _flatten(node: Node, shapes: Sequence[Shape]) -> Shape:
    return (elements(shapes[0]),)


def _mean(node: Node, shapes: Sequence[Shape]) -> Shape:
    channels, _, _ = spatial(node, shapes[0])
    return (channels, 1, 1) if node.attributes["keep"] else (channels,)


def _arrange(node: Node, shapes: Sequence[Shape]) -> Shape:
    positions = node.counts("positions")
    if not positions or max(positions) >= shapes[0][0]:
        raise misfit(node, shapes, f"at least {max(positions, default=0) + 1} channels")
    return len(positions), *shapes[0][1:]


def _rescale(node: Node, shapes: Sequence[Shape]) -> Shape:
    if {len(node.numbers("scale")), len(node.numbers("shift"))} != {shapes[0][0]}:
        raise misfit(node, shapes, f"{len(node.numbers('scale'))} channels, and as many shifts as scales")
    return shapes[0]


def _mask(node: Node, shapes: Sequence[Shape]) -> Shape:
    spatial(node, shapes[0])
    spatial(node, shapes[1])
    return shapes[1]


def _mask_tensors(node: Node, shapes: Sequence[Shape]) -> dict[str, Shape]:
    hidden, channels = node.count("hidden"), shapes[1][0]
    return {
        "reduce.weight": (hidden, shapes[0][0]),
        "expand.weight": (channels, hidden),
        "expand.bias": (channels,),
    }


def _convolution_tensors(node: Node, shapes: Sequence[Shape]) -> dict[str, Shape]:
    outs, ins = node.count("out_channels"), node.count("in_channels") // node.count("groups")
    return {"weight": (outs, ins, *node.counts("kernel")), "bias": (outs,)}


def _batch_norm_tensors(node: Node, shapes: Sequence[Shape]) -> dict[str, Shape]:
    row = (node.count("channels"),)
    return {"weight": row, "bias": row, "running_mean": row, "running_var": row, "num_batches_tracked": ()}


def _linear_tensors(node: Node, shapes: Sequence[Shape]) -> dict[str, Shape]:
    return {"weight": (node.count("out_features"), node.count("in_features")), "bias": (node.count("out_features"),)}


def _activation(*, keeps_zero: bool = True, **attributes: str) -> Operation:
    return Operation(_same, attributes, keeps_zero=keeps_zero)


_WINDOW: Final = {"kernel": "counts", "stride": "counts", "padding": "sizes"}

OPERATIONS: Final[Mapping[str, Operation]] = {
    "convolution": Operation(
        _convolution,
        {"in_channels": "count", "out_channels": "count", **_WINDOW, "dilation": "counts", "groups": "count"},
        ("weight",),
        ("bias",),
        _convolution_tensors,
    ),
    "batch_norm": Operation(
        _batch_norm,
        {"channels": "count", "eps": "number"},
        ("running_mean", "running_var"),
        ("weight", "bias", "num_batches_tracked"),
        _batch_norm_tensors,
    ),
    "linear": Operation(
        _linear, {"in_features": "count", "out_features": "count"}, ("weight",), ("bias",), _linear_tensors
    ),
    "relu": _activation(),
    "relu6": _activation(),
    "leaky_relu": _activation(negative_slope="number"),
    "elu": _activation(alpha="number"),
    "silu": _activation(),
    "gelu": _activation(approximate="approximation"),
    "mish": _activation(),
    "tanh": _activation(),
    "hardswish": _activation(),
    "sigmoid": _activation(keeps_zero=False),
    "hardsigmoid": _activation(keeps_zero=False),
    "softplus": _activation(keeps_zero=False),
    "dropout": _activation(p="share"),
    "identity": _activation(),
    "max_pool": Operation(_pool, {**_WINDOW, "dilation": "counts", "ceil_mode": "flag"}, keeps_zero=True),
    "avg_pool": Operation(_pool, {**_WINDOW, "ceil_mode": "flag", "count_include_pad": "flag"}, keeps_zero=True),
    "adaptive_avg_pool": Operation(_adaptive, {"size": "counts"}, keeps_zero=True),
    "adaptive_max_pool": Operation(_adaptive, {"size": "counts"}, keeps_zero=True),
    "add": Operation(_add, {}, inputs=(2, 2), keeps_zero=True),
    "multiply": Operation(_multiply, {}, inputs=(2, 2), keeps_zero=True),
    "concatenate": Operation(_concatenate, {}, inputs=(1, MANY)),
    "flatten": Operation(_flatten, {}),
    "mean": Operation(_mean, {"keep": "flag"}, keeps_zero=True),
    "arrange": Operation(_arrange, {"positions": "positions"}),
    "affine": Operation(_same, {"scale": "number", "shift": "number"}),
    "rescale": Operation(_rescale, {"scale": "numbers", "shift": "numbers"}),
    "scale": Operation(
        _same,
        {},
        ("weight",),
        tensors=lambda node, shapes: {"weight": shapes[0][:1]},
        keeps_zero=True,
    ),
    "mask": Operation(
        _mask,
        {"hidden": "count"},
        ("reduce.weight", "expand.weight", "expand.bias"),
        tensors=_mask_tensors,
        inputs=(2, 2),
    ),
}
"""Every kind of node. ``arrange`` puts channels in another order, channel ``positions[i]`` at place i, and zeros where
that is -1; ``affine`` computes ``scale * x + shift``, and ``rescale`` the same with numbers for each channel; ``scale``
multiplies each channel by its factor, a tensor; ``mask`` multiplies its second input by what a mask generator computes
from its first."""
