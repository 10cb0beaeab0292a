"""Networks that can be trained by name, in any width: the shapes of the papers, and three that they lack.

All of them are made of layers that `tracing.trace` knows, take images of at least 8 by 8 pixels, and have BatchNorm
after every convolution.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from dovetail.engine.errors import RecipeError

_VGG16: Final = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Kernels of VGG16's convolutions; 0 is a pooling."""


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What a network is made for."""

    classes: int
    """Number of classes."""
    channels: int = 3
    """Channels of an image."""
    size: int = 32
    """Height and width of an image, in pixels."""
    width: float = 1.0
    """Factor on the number of kernels of every convolution."""

    def kernels(self, count: float) -> int:
        """Give the number of kernels where the network of width 1 has `count`: a multiple of 4, and at least 4."""
        return max(4, 4 * round(count * self.width / 4))


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


def _unit(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    return [*_conv(inputs, outputs, kernel), nn.ReLU()]


class Classifier(nn.Module):
    """A network in two parts: features of an image, and the head that gives the logits."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits, of shape (samples, classes), of images of shape (samples, channels, height, width)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Residual(nn.Module):
    """Adds what a block computes to its input, which goes through a convolution of its own where shapes differ."""

    def __init__(self, block: nn.Module, shortcut: nn.Module | None, activation: nn.Module | None) -> None:
        super().__init__()
        self.block = block
        self.shortcut = shortcut if shortcut is not None else nn.Identity()
        self.activation = activation if activation is not None else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Give the activated sum."""
        total: Tensor = self.activation(self.block(images) + self.shortcut(images))
        return total


class Branches(nn.Module):
    """Puts the channels of several branches side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Tensor:
        """Give the channels of all branches."""
        return torch.cat([branch(images) for branch in self.branches], dim=1)


def _plain(options: NetworkOptions, plan: tuple[int, ...]) -> tuple[nn.Sequential, int, int]:
    """Stack convolutions; also give the number of channels and the size at the end."""
    layers: list[nn.Module] = []
    channels, size = options.channels, options.size
    for count in plan:
        if count:
            layers += _unit(channels, options.kernels(count))
            channels = options.kernels(count)
        elif size > 1:
            layers.append(nn.MaxPool2d(2))
            size //= 2
    return nn.Sequential(*layers), channels, size


def _head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def simcnn(options: NetworkOptions) -> nn.Module:
    """Make SimCNN of CNNSplitter and MwT: the convolutions of VGG16, flattened, and a head of three layers."""
    features, channels, size = _plain(options, (*_VGG16, 0))
    hidden = options.kernels(512)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(channels * size * size, hidden), nn.ReLU()]
    layers += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, options.classes)]
    return Classifier(features, nn.Sequential(*layers))


def vgg(options: NetworkOptions) -> nn.Module:
    """Make VGG16 with BatchNorm, its last features averaged over space, and a head of one layer."""
    features, channels, _ = _plain(options, _VGG16)
    return Classifier(features, _head(channels, options.classes))


def tiny(options: NetworkOptions) -> nn.Module:
    """Make a network of four convolutions that learns small images in seconds."""
    features, channels, _ = _plain(options, (16, 0, 32, 32, 0, 64))
    return Classifier(features, _head(channels, options.classes))


def resnet(options: NetworkOptions) -> nn.Module:
    """Make ResNet18 for small images: a first convolution of 3 by 3, no pooling, four groups of two blocks."""
    channels = options.kernels(64)
    layers: list[nn.Module] = _unit(options.channels, channels)
    for group, count in enumerate((64, 128, 256, 512)):
        outputs = options.kernels(count)
        for stride in (2 if group else 1, 1):
            inner = [*_conv(channels, outputs, 3, stride), nn.ReLU(), *_conv(outputs, outputs)]
            alike = stride == 1 and channels == outputs
            shortcut = None if alike else nn.Sequential(*_conv(channels, outputs, 1, stride))
            layers.append(Residual(nn.Sequential(*inner), shortcut, nn.ReLU()))
            channels = outputs
    return Classifier(nn.Sequential(*layers), _head(channels, options.classes))


def mobilenet(options: NetworkOptions) -> nn.Module:
    """Make a network of MobileNetV2's inverted residuals, with strides for small images."""
    channels = options.kernels(32)
    layers: list[nn.Module] = [*_conv(options.channels, channels), nn.ReLU6()]
    plan = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 2, 2), (6, 64, 2, 2), (6, 96, 1, 1))
    for expansion, count, repeats, first_stride in plan:
        outputs = options.kernels(count)
        for stride in (first_stride, *(1,) * (repeats - 1)):
            inner = channels * expansion
            expanded = [*_conv(channels, inner, 1), nn.ReLU6()] if expansion > 1 else []
            depthwise = [*_conv(inner, inner, 3, stride, groups=inner), nn.ReLU6()]
            block = nn.Sequential(*expanded, *depthwise, *_conv(inner, outputs, 1))
            alike = stride == 1 and channels == outputs
            layers.append(Residual(block, None, None) if alike else block)
            channels = outputs
    last = options.kernels(320)
    layers += [*_conv(channels, last, 1), nn.ReLU6()]
    return Classifier(nn.Sequential(*layers), _head(last, options.classes))


def inception(options: NetworkOptions) -> nn.Module:
    """Make a network of Inception blocks: branches of 1 by 1, 3 by 3, twice 3 by 3 and pooling, side by side."""
    channels = options.kernels(32)
    layers: list[nn.Module] = _unit(options.channels, channels)
    for index, count in enumerate((32, 48, 64)):
        part, thin = options.kernels(count), options.kernels(count / 2)
        branches = Branches(
            nn.Sequential(*_unit(channels, part, 1)),
            nn.Sequential(*_unit(channels, thin, 1), *_unit(thin, part)),
            nn.Sequential(*_unit(channels, thin, 1), *_unit(thin, part), *_unit(part, part)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), *_unit(channels, part, 1)),
        )
        layers += [branches, *([nn.MaxPool2d(2)] if index < 2 else [])]
        channels = 4 * part
    return Classifier(nn.Sequential(*layers), _head(channels, options.classes))


NETWORKS: Final[Mapping[str, Callable[[NetworkOptions], nn.Module]]] = {
    "tiny": tiny,
    "simcnn": simcnn,
    "vgg": vgg,
    "resnet": resnet,
    "mobilenet": mobilenet,
    "inception": inception,
}
"""Makers of networks by the names that the command line takes."""


def make_network(name: str, options: NetworkOptions, seed: int = 0) -> nn.Module:
    """Make a network with random weights.

    Parameters
    ----------
    name
        One of `NETWORKS`, or ``module:function`` of the caller's own: the function is called with a `NetworkOptions`,
        and its module is imported from the current folder or from what is installed. This runs that code.
    options
        What the network is made for.
    seed
        Decides the random weights. The random numbers of the caller's torch are left as they are.

    Raises
    ------
    RecipeError
        There is no such network, or what the function gives is none.

    """
    maker = NETWORKS.get(name) or _own(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = maker(options)
    if not isinstance(network, nn.Module):
        raise RecipeError(
            f"network {name!r} is a {type(network).__name__}",
            "a torch.nn.Module",
            "let the function return one",
        )
    return network


def _own(name: str) -> Callable[[NetworkOptions], nn.Module]:
    """Find a function of the user's own; raises a RecipeError if there is none."""
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise RecipeError(
            f"network {name!r} is not known", f"one of {', '.join(NETWORKS)}, or MODULE:FUNCTION of your own", ""
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"network {name!r} cannot be made ({error})",
            "a module in the current folder, or one that is installed",
            "write MODULE:FUNCTION, as in my_networks:small",
        ) from error
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise RecipeError(
            f"module {module_name} has no function {function_name!r}",
            "a function that takes a NetworkOptions and returns a torch.nn.Module",
            "write MODULE:FUNCTION, as in my_networks:small",
        )
    found: Callable[[NetworkOptions], nn.Module] = function
    return found
