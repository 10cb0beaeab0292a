"""Small things to learn from, for tests of networks."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.data.shapes import make_shapes
from dovetail.engine.modular.training.activities import WatchedModel, watch
from dovetail.engine.modular.training.masks import ModularModel, modularize

CHANNELS, SIZE = 1, 16
"""Channels and size of the images of `shapes`."""


def images_of(samples: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Draw images of normal noise."""
    return torch.randn(samples, channels, size, size, generator=torch.Generator().manual_seed(seed))


@functools.cache
def few_shapes() -> DataSet:
    """Make a data set of few images."""
    return make_shapes(100, 50, 50)


def small_network(seed: int = 0) -> nn.Module:
    """Make a network with dropout, which draws random numbers while it learns."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(CHANNELS, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)),
    )


def observed_network(method: str, seed: int = 0) -> ModularModel | WatchedModel:
    """Make a small network with what a method needs."""
    example = images_of(2, CHANNELS, SIZE)
    return (modularize if method in ("mwt", "nemo") else watch)(small_network(seed), example)
