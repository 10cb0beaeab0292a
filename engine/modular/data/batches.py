"""Batches of images for training and for counting: their order, crops and flips, and colours as numbers.

Whatever is random is decided by numbers that everybody can name: the seed, the epoch and the batch. A training that
continues after it was stopped therefore needs no state of a generator to draw the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dovetail.engine.modular.data.images import Images

_ORDER, _CHANGES = 1, 2
"""Which of the random decisions of a seed and an epoch is meant."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How bytes become numbers: divided by 255, minus the mean, divided by the deviation, channel by channel."""

    mean: tuple[float, ...]
    """Mean of each channel, from 0 to 1."""
    deviation: tuple[float, ...]
    """Standard deviation of each channel, above 0."""

    @classmethod
    def of(cls, images: Images) -> Self:
        """Measure images, exactly: the sums are of integers. A channel of one value has the deviation 1."""
        values = np.arange(256, dtype=np.float64) / 255
        mean, deviation = [], []
        for channel in range(images.pixels.shape[1]):
            shares = np.bincount(images.pixels[:, channel].reshape(-1), minlength=256) / images.pixels[:, 0].size
            mean.append(float(shares @ values))
            deviation.append(float(np.sqrt(shares @ (values - mean[-1]) ** 2)) or 1.0)
        return cls(tuple(mean), tuple(deviation))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Give float32 images of the same shape, on the same device, of bytes (samples, channels, height, width)."""
        mean, deviation = (torch.tensor(each, device=pixels.device) for each in (self.mean, self.deviation))
        return (pixels.float() / 255 - mean[:, None, None]) / deviation[:, None, None]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of training images."""

    padding: int = 0
    """Black pixels added at every edge, before a part of the old size is cut out anywhere."""
    flip: bool = False
    """Whether half of the images are mirrored, left to right."""

    def __call__(self, pixels: Tensor, random: np.random.Generator) -> Tensor:
        """Change every image of a batch of bytes in its own way; shape and dtype stay."""
        samples, _, height, width = pixels.shape
        if self.flip:
            mirrored = torch.from_numpy(random.random(samples) < 0.5).to(pixels.device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        if self.padding:
            padded = torch.nn.functional.pad(pixels, (self.padding,) * 4)
            tops, lefts = torch.from_numpy(random.integers(0, 2 * self.padding + 1, (2, samples))).to(pixels.device)
            rows = tops[:, None] + torch.arange(height, device=pixels.device)
            columns = lefts[:, None] + torch.arange(width, device=pixels.device)
            which = torch.arange(samples, device=pixels.device)
            # Indices around a slice come first in the result, so that channels end up last.
            pixels = padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return pixels


def order_of(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """Give the order in which an epoch takes the samples."""
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(samples)


def training_batch(
    images: Images, order: NDArray[np.int64], size: int, batch: int, changes: Augmentation, key: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Give one batch of an epoch, changed at random, still as bytes.

    Parameters
    ----------
    images
        The training set.
    order
        From `order_of`.
    size
        Samples of a batch; the last batch of an epoch may have fewer.
    batch
        Number of the batch in its epoch, from 0.
    changes
        What to do to the images.
    key
        Seed and epoch.

    """
    chosen = order[batch * size : (batch + 1) * size]
    pixels = torch.from_numpy(np.ascontiguousarray(images.pixels[chosen]))
    random = np.random.default_rng([*key, _CHANGES, batch])
    return changes(pixels, random), torch.from_numpy(images.labels[chosen])


def batches_of(images: Images, size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
    """Give all images as they are, in order, as bytes with their labels."""
    for start in range(0, len(images), size):
        part = images.take(slice(start, start + size))
        yield torch.from_numpy(np.ascontiguousarray(part.pixels)), torch.from_numpy(part.labels)
