"""Functions, operators and methods of torch as nodes of an architecture.

Each is written down as a function of the same parameters as in torch, so that Python itself sorts out which argument is
which.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch.nn import functional

from dovetail.engine.modular.network.node import Attribute
from dovetail.engine.modular.pytorch.torch_layers import Described, adaptive, avg_pool, max_pool, unsupported


@dataclass(frozen=True, slots=True)
class Value:
    """A value in the network while it is traced."""

    node: str
    """The node that gives it."""
    shape: tuple[int, ...]
    """Its shape for one sample."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The number of samples, which a network may ask for but not depend on."""


@dataclass(frozen=True, slots=True)
class Call:
    """A use of a function, understood."""

    kind: str
    """Kind of the node."""
    inputs: tuple[Any, ...]
    """What it takes: each must be a `Value`."""
    attributes: dict[str, Attribute] = field(default_factory=dict)
    """The node's settings."""


def _one(described: Described, input: Any) -> Call:
    return Call(described[0], (input,), described[1])


def _activation(kind: str) -> Callable[..., Call]:
    return lambda input, inplace=False: Call(kind, (input,))


def _leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Call:
    return Call("leaky_relu", (input,), {"negative_slope": negative_slope})


def _elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Call:
    return Call("elu", (input,), {"alpha": alpha})


def _gelu(input: Any, approximate: str = "none") -> Call:
    return Call("gelu", (input,), {"approximate": approximate})


def _softplus(input: Any, beta: float = 1, threshold: float = 20) -> Call:
    if (beta, threshold) != (1, 20):
        raise unsupported(f"softplus has beta {beta} and threshold {threshold}", "1 and 20")
    return Call("softplus", (input,))


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Call:
    if training:
        raise unsupported("dropout is on in evaluation, too", "training=self.training")
    return Call("dropout", (input,), {"p": p})


def _stochastic_depth(input: Any, p: float, mode: str, training: bool = True) -> Call:
    if training:
        raise unsupported("stochastic depth is on in evaluation, too", "training=self.training")
    return Call("identity", (input,))


def _max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Call:
    if return_indices:
        raise unsupported("a max pool returns indices", "the maxima alone")
    return _one(max_pool(kernel_size, stride or None, padding, dilation, ceil_mode), input)


def _avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Call:
    if divisor_override is not None:
        raise unsupported("an average pool has divisor_override", "none")
    return _one(avg_pool(kernel_size, stride or None, padding, ceil_mode, count_include_pad), input)


def _adaptive_avg_pool2d(input: Any, output_size: Any) -> Call:
    return _one(adaptive("adaptive_avg_pool2d", "adaptive_avg_pool", output_size), input)


def _adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Call:
    if return_indices:
        raise unsupported("a max pool returns indices", "the maxima alone")
    return _one(adaptive("adaptive_max_pool2d", "adaptive_max_pool", output_size), input)


def _add(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    if alpha != 1:
        raise unsupported(f"an addition has alpha {alpha}", "1")
    return Call("add", (input, other))


def _multiply(input: Any, other: Any) -> Any:
    if isinstance(input, int) and isinstance(other, int):  # sizes, for a view
        return input * other
    return Call("multiply", (input, other))


def _concatenate(tensors: Sequence[Any], dim: int = 0) -> Call:
    dims = {len(value.shape) for value in tensors if isinstance(value, Value)}
    if dim != 1 and not (len(dims) == 1 and dim == -dims.pop()):
        raise unsupported(f"values are concatenated along dimension {dim}", "dimension 1, the channels")
    return Call("concatenate", tuple(tensors))


def _flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Call:
    if start_dim != 1 or end_dim not in (-1, len(input.shape)):
        raise unsupported(f"dimensions {start_dim} to {end_dim} are flattened", "all but the batch: 1 to -1")
    return Call("flatten", (input,))


def _view(input: Any, *shape: Any) -> Call:
    sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    features = 1
    for size in input.shape:
        features *= size
    whole = len(sizes) == 2 and sizes != (-1, -1) and sizes[1] in (-1, features)
    if not whole or not (isinstance(sizes[0], Batch) or sizes[0] == -1):
        text = ", ".join("batch" if isinstance(size, Batch) else str(size) for size in sizes)
        raise unsupported(f"a value is viewed as ({text})", "a flat one: x.view(x.size(0), -1), or torch.flatten(x, 1)")
    return Call("flatten", (input,))


def _reshape(input: Any, shape: Any) -> Call:
    return _view(input, *shape)


def _mean(input: Any, dim: Any = None, keepdim: bool = False) -> Call:
    given = [dim] if isinstance(dim, int) else list(dim or ())
    if len(input.shape) != 3 or sorted(axis % 4 for axis in given) != [2, 3]:
        raise unsupported(f"a mean is taken over dimensions {dim}", "height and width: x.mean((2, 3))")
    return Call("mean", (input,), {"keep": bool(keepdim)})


def _identity(input: Any) -> Call:
    return Call("identity", (input,))


def _size(input: Any, dim: int | None = None) -> Any:
    sizes = (Batch(), *input.shape)
    return sizes if dim is None else sizes[dim]


def _getattr(input: Any, name: str) -> Any:
    if not isinstance(input, Value) or name != "shape":
        raise unsupported(f"the network asks for .{name} of a value", ".shape")
    return _size(input)


def _getitem(input: Any, index: Any) -> Any:
    if not isinstance(input, tuple):
        raise unsupported("a part of a value is taken by an index", "whole values")
    return input[index]


FUNCTIONS: Final[Mapping[Any, Callable[..., Any]]] = {
    **dict.fromkeys((functional.relu, torch.relu, torch.relu_, functional.relu_), _activation("relu")),
    **dict.fromkeys((torch.tanh, functional.tanh), _activation("tanh")),
    **dict.fromkeys((torch.sigmoid, functional.sigmoid), _activation("sigmoid")),
    functional.relu6: _activation("relu6"),
    functional.silu: _activation("silu"),
    functional.mish: _activation("mish"),
    functional.hardswish: _activation("hardswish"),
    functional.hardsigmoid: _activation("hardsigmoid"),
    functional.leaky_relu: _leaky_relu,
    functional.elu: _elu,
    functional.gelu: _gelu,
    functional.softplus: _softplus,
    functional.dropout: _dropout,
    functional.dropout2d: _dropout,
    **dict.fromkeys((functional.max_pool2d, torch.max_pool2d), _max_pool2d),
    functional.avg_pool2d: _avg_pool2d,
    functional.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    functional.adaptive_max_pool2d: _adaptive_max_pool2d,
    **dict.fromkeys((operator.add, operator.iadd, torch.add), _add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply), _multiply),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concatenate),
    torch.flatten: _flatten,
    torch.reshape: _reshape,
    torch.mean: _mean,
    getattr: _getattr,
    operator.getitem: _getitem,
}
"""What functions and operators mean."""

METHODS: Final[Mapping[str, Callable[..., Any]]] = {
    **dict.fromkeys(("relu", "relu_"), _activation("relu")),
    "tanh": _activation("tanh"),
    "sigmoid": _activation("sigmoid"),
    **dict.fromkeys(("add", "add_"), _add),
    **dict.fromkeys(("mul", "mul_"), _multiply),
    "flatten": _flatten,
    **dict.fromkeys(("view", "reshape"), _view),
    "mean": _mean,
    **dict.fromkeys(("contiguous", "clone"), _identity),
    "size": _size,
}
"""What methods of tensors mean."""

BY_NAME: Final[Mapping[str, Callable[..., Any]]] = {"stochastic_depth": _stochastic_depth}
"""What functions of packages mean that need not be installed."""


def function_named(target: Any) -> Callable[..., Any] | None:
    """Find what a function, or the name of a method, means; None if it is not supported."""
    if isinstance(target, str):
        return METHODS.get(target)
    return FUNCTIONS.get(target) or BY_NAME.get(getattr(target, "__name__", ""))


def supported_functions() -> str:
    """List the functions for people."""
    names = {getattr(target, "__name__", "") for target in FUNCTIONS} - {"boolean_dispatch", "fn", "getattr", "getitem"}
    return ", ".join(sorted({name.rstrip("_") for name in names} | {"max_pool2d", "adaptive_max_pool2d"}))
