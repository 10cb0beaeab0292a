"""Layers of torch as nodes of an architecture: which modules are supported, and with which settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular.network.node import Attribute

Described = tuple[str, dict[str, Attribute]]
"""Kind and settings of a node."""


def pair(value: Any) -> tuple[int, int]:
    """Write a size of torch, one number or two, as two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def unsupported(what: str, expected: str) -> ArchitectureError:
    """Make the error for a layer or a use of one that is not supported."""
    return ArchitectureError(what, expected, "replace it, or write that part of the network in another way")


def describe(path: str, module: nn.Module) -> Described:
    """Give kind and settings of a layer.

    Parameters
    ----------
    path
        Where it is in its network, for errors.
    module
        The layer.

    Raises
    ------
    ArchitectureError
        The layer, or one of its settings, is not supported.

    """
    if (make := _LAYERS.get(type(module))) is None:
        known = ", ".join(kind.__name__ for kind in _LAYERS)
        raise unsupported(f"layer {path!r} is a {type(module).__name__}, which is not supported", f"one of {known}")
    return make(path, module)


def _convolution(path: str, layer: Any) -> Described:
    padding = layer.padding
    if layer.padding_mode != "zeros":
        raise unsupported(f"layer {path!r} has padding_mode {layer.padding_mode!r}", "'zeros'")
    if padding == "valid":
        padding = 0
    elif padding == "same":
        room = [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(size % 2 for size in room):
            raise unsupported(f"layer {path!r} pads one side more than the other", "the same padding on both sides")
        padding = [size // 2 for size in room]
    return "convolution", {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel": pair(layer.kernel_size),
        "stride": pair(layer.stride),
        "padding": pair(padding),
        "dilation": pair(layer.dilation),
        "groups": layer.groups,
    }


def _batch_norm(path: str, layer: Any) -> Described:
    if layer.running_mean is None:
        raise unsupported(f"layer {path!r} keeps no running mean and variance", "track_running_stats=True")
    return "batch_norm", {"channels": layer.num_features, "eps": layer.eps}


def _linear(path: str, layer: Any) -> Described:
    return "linear", {"in_features": layer.in_features, "out_features": layer.out_features}


def _max_pool(path: str, layer: Any) -> Described:
    if layer.return_indices:
        raise unsupported(f"layer {path!r} returns indices", "the maxima alone")
    return max_pool(layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)


def max_pool(kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Described:
    """Describe a max pool."""
    return "max_pool", {
        "kernel": pair(kernel),
        "stride": pair(kernel if stride is None else stride),
        "padding": pair(padding),
        "dilation": pair(dilation),
        "ceil_mode": bool(ceil_mode),
    }


def _avg_pool(path: str, layer: Any) -> Described:
    if layer.divisor_override is not None:
        raise unsupported(f"layer {path!r} has divisor_override", "none")
    return avg_pool(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad)


def avg_pool(kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool) -> Described:
    """Describe an average pool."""
    return "avg_pool", {
        "kernel": pair(kernel),
        "stride": pair(kernel if stride is None else stride),
        "padding": pair(padding),
        "ceil_mode": bool(ceil_mode),
        "count_include_pad": bool(count_include_pad),
    }


def _adaptive(kind: str) -> Callable[[str, Any], Described]:
    def make(path: str, layer: Any) -> Described:
        if getattr(layer, "return_indices", False):
            raise unsupported(f"layer {path!r} returns indices", "the maxima alone")
        return adaptive(path, kind, layer.output_size)

    return make


def adaptive(path: str, kind: str, size: Any) -> Described:
    """Describe an adaptive pool."""
    if size is None or (not isinstance(size, int) and None in size):
        raise unsupported(f"layer {path!r} leaves an output size open", "two numbers")
    return kind, {"size": pair(size)}


def _flatten(path: str, layer: Any) -> Described:
    if layer.start_dim != 1 or layer.end_dim not in (-1, 3):
        raise unsupported(f"layer {path!r} flattens some dimensions", "all but the batch: start_dim=1, end_dim=-1")
    return "flatten", {}


def _plain(kind: str, **settings: str) -> Callable[[str, Any], Described]:
    """Describe layers whose settings have the same meaning as here; `settings` has their names in torch, by ours."""

    def make(path: str, layer: Any) -> Described:
        return kind, {name: getattr(layer, attribute) for name, attribute in settings.items()}

    return make


def _softplus(path: str, layer: Any) -> Described:
    if (layer.beta, layer.threshold) != (1, 20):
        raise unsupported(f"layer {path!r} has beta {layer.beta} and threshold {layer.threshold}", "1 and 20")
    return "softplus", {}


_LAYERS: Final[Mapping[type, Callable[[str, Any], Described]]] = {
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.Linear: _linear,
    nn.ReLU: _plain("relu"),
    nn.ReLU6: _plain("relu6"),
    nn.LeakyReLU: _plain("leaky_relu", negative_slope="negative_slope"),
    nn.ELU: _plain("elu", alpha="alpha"),
    nn.SiLU: _plain("silu"),
    nn.GELU: _plain("gelu", approximate="approximate"),
    nn.Mish: _plain("mish"),
    nn.Tanh: _plain("tanh"),
    nn.Hardswish: _plain("hardswish"),
    nn.Sigmoid: _plain("sigmoid"),
    nn.Hardsigmoid: _plain("hardsigmoid"),
    nn.Softplus: _softplus,
    nn.Dropout: _plain("dropout", p="p"),
    nn.Dropout2d: _plain("dropout", p="p"),
    nn.Identity: _plain("identity"),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive("adaptive_avg_pool"),
    nn.AdaptiveMaxPool2d: _adaptive("adaptive_max_pool"),
    nn.Flatten: _flatten,
}
