"""Counting which kernels each class uses, one batch after another.

Extraction needs no more of the training set than these counts: how often each kernel was used by samples of each
class. Their size does not depend on the number of samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.network.counts import Counts


class MaskCounter:
    """Counts, for every class and kernel, the samples that use the kernel, and adds up their soft masks.

    Counts are integers of 64 bits, and exact. Sums of soft masks are of float64, in the order of the batches.

    Parameters
    ----------
    widths
        Number of kernels of every masked layer, by the layer's path.
    classes
        Number of classes.

    """

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        self.classes = classes
        self._samples = torch.zeros(classes, dtype=torch.int64)
        self._counts = {path: torch.zeros(classes, width, dtype=torch.int64) for path, width in widths.items()}
        self._sums = {path: torch.zeros(classes, width, dtype=torch.float64) for path, width in widths.items()}

    def add(self, masks: Mapping[str, Tensor], labels: Tensor) -> None:
        """Count one batch.

        Parameters
        ----------
        masks
            A tensor of shape (samples, kernels) for every masked layer; a kernel is used where it is above 0.
        labels
            Class of each sample, of shape (samples,).

        Raises
        ------
        RecipeError
            A label is not one of the classes, or the layers are not those that are counted, or of another shape.

        """
        labels = labels.to("cpu", torch.int64)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise RecipeError(
                f"labels go from {int(labels.min())} to {int(labels.max())}",
                f"0 to {self.classes - 1}, for {self.classes} classes",
                "count with the data that the network was trained for",
            )
        for path, wanted in self._counts.items():
            shape = tuple(masks[path].shape) if path in masks else None
            if shape != (len(labels), wanted.shape[1]):
                raise RecipeError(
                    f"masks of layer {path!r} have the shape {shape}",
                    f"{(len(labels), wanted.shape[1])}: samples and kernels",
                    "count the masks of the network for which the counter was made",
                )
        self._samples += torch.bincount(labels, minlength=self.classes)
        for path, counts in self._counts.items():
            mask = masks[path].detach().to("cpu", torch.float64)
            counts.index_add_(0, labels, (mask > 0).to(torch.int64))
            self._sums[path].index_add_(0, labels, mask)

    @property
    def samples(self) -> NDArray[np.int64]:
        """Samples of each class so far, of shape (classes,)."""
        return self._samples.numpy().copy()

    @property
    def counts(self) -> dict[str, NDArray[np.int64]]:
        """Samples of each class that used each kernel, of shape (classes, kernels) by path."""
        return {path: counts.numpy().copy() for path, counts in self._counts.items()}

    @property
    def soft(self) -> dict[str, NDArray[np.float64]]:
        """Mean soft mask of each class, of shape (classes, kernels) by path; 0 for a class without samples."""
        share = self._samples.clamp(min=1)[:, None]
        return {path: (sums / share).numpy() for path, sums in self._sums.items()}

    def result(self, *, soft: bool = True) -> Counts:
        """Give what has been counted.

        Parameters
        ----------
        soft
            Whether what was counted are masks, whose means extraction can use in their place, and not activities.

        """
        return Counts(self.samples, self.counts, self.soft if soft else {})
