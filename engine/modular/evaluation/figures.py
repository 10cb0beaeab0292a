"""How good a modular network and its modules are: accuracy, kernels kept, size, work, and time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.data.batches import Normalisation
from dovetail.engine.modular.data.images import DataSet, Images
from dovetail.engine.modular.evaluation.in_memory import MadeModule, ModuleMaker
from dovetail.engine.modular.evaluation.metrics import Kept, kernel_retention, module_coupling, sample_cohesion
from dovetail.engine.modular.network.costs import Costs, costs_of
from dovetail.engine.modular.network.counts import Counts, kernels_of, read_counts
from dovetail.engine.modular.network.parent import Parent
from dovetail.engine.modular.pytorch.torch_network import build_network
from dovetail.engine.modular.training.activities import WatchedModel
from dovetail.engine.modular.training.masks import ModularModel
from dovetail.engine.modular.training.predictions import Observed, in_evaluation, logits_of
from dovetail.io.state_dict import load_tensors

COHESION_SAMPLES: Final = 200
"""Most test images of each class that are compared with one another for the cohesion."""

_REPEATS: Final = 30


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """How the module of one class does."""

    name: str
    """The class."""
    kernels: float
    """Share of the masked kernels that it keeps, from 0 to 1."""
    costs: Costs
    """Its size and work, with one logit."""
    recall: float
    """Share of the class's images that it takes for the class, with all logits of the network."""
    specificity: float
    """Share of the other images that it does not take for the class."""
    area: float
    """Area under the curve (ROC) of its one logit: how often an image of the class has a greater one than another."""
    cohesion: float
    """How alike the kernels are that images of the class use, within its own, from 0 to 1."""

    @property
    def balanced(self) -> float:
        """Mean of recall and specificity: the accuracy on as many images of the class as of others."""
        return (self.recall + self.specificity) / 2


class Evaluation:
    """A stored network, its counts and a data set, for figures of the network and of modules.

    Parameters
    ----------
    parent
        The network.
    data
        The data set, with the network's classes in their order. Figures are those of its test set.
    normalise
        How bytes of images become numbers; see `normalisation_of`.
    threshold
        Share of samples from which on a kernel is a class's own; None for the network's.
    masks
        What becomes of soft masks in modules; see `extract_module`.
    device
        Where to compute.

    Raises
    ------
    RecipeError
        The data have other classes, or images of another shape.
    CheckpointError
        The network has no counts, or is damaged.

    """

    def __init__(
        self,
        parent: Parent,
        data: DataSet,
        normalise: Normalisation,
        *,
        threshold: float | None = None,
        masks: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        check_data(parent, data)
        self.parent, self.data, self.normalise = parent, data, normalise
        self.device = device or torch.device("cpu")
        self.tensors = load_tensors(parent.checkpoint, copy=True)
        self.counts: Counts = read_counts(parent)
        share = parent.threshold if threshold is None else threshold
        self.kernels: list[Kept] = [
            kernels_of(self.counts, number, name, share, parent.architecture).kept
            for number, name in enumerate(parent.classes)
        ]
        self.maker = ModuleMaker(parent, self.tensors, self.counts, self.kernels, masks)
        self.observed = load_observed(parent, self.tensors).to(self.device)

    def accuracy(self) -> float:
        """Give the share of test images that the network has right, from 0 to 1."""
        return self.right(self.observed, self.data.test)

    def retention(self) -> float:
        """Give the kernel retention rate of the modules, from 0 to 1."""
        return kernel_retention(self.kernels)

    def coupling(self) -> float:
        """Give the coupling of the modules, from 0 to 1."""
        return module_coupling(self.kernels)

    def of_class(self, number: int) -> ClassFigures:
        """Say how the module of one class does."""
        test = self.data.test
        own = test.labels == number
        whole = self.maker.make([number], all_logits=True)
        taken = self._logits(whole.network, test).argmax(axis=1) == number
        single = self.maker.make([number])
        kept = self.kernels[number]
        return ClassFigures(
            self.parent.classes[number],
            sum(int(each.sum()) for each in kept.values()) / sum(each.size for each in kept.values()),
            costs_of(single.architecture),
            float(taken[own].mean()),
            float((~taken[~own]).mean()),
            area_under_curve(self._logits(single.network, test)[:, 0], own),
            self._cohesion(number),
        )

    def composed(self, numbers: Sequence[int]) -> tuple[MadeModule, float]:
        """Put the modules of some classes together; give the result, and its accuracy on test images of these."""
        module = self.maker.make(numbers)
        return module, self.right(module.network, self.data.test.of_classes(numbers))

    def among(self, numbers: Sequence[int]) -> float:
        """Give the accuracy of the whole network on test images of some classes, if it may only choose among these."""
        chosen = self.data.test.of_classes(numbers)
        logits = self._logits(self.observed, chosen)[:, list(numbers)]
        return float((logits.argmax(axis=1) == chosen.labels).mean())

    def _cohesion(self, number: int) -> float:
        own = self.data.test.take(self.data.test.labels == number).take(slice(0, COHESION_SAMPLES))
        with in_evaluation(self.observed):
            self.observed(self.normalise(torch.from_numpy(np.ascontiguousarray(own.pixels)).to(self.device)))
        used = {path: (mask > 0).cpu().numpy() for path, mask in self.observed.masks.items()}
        return sample_cohesion(used, self.kernels[number])

    def _logits(self, network: nn.Module, images: Images) -> NDArray[np.float32]:
        return logits_of(network.to(self.device), images, self.normalise, self.device)

    def right(self, network: nn.Module, images: Images) -> float:
        """Give the share of images that a network has right, from 0 to 1."""
        return float((self._logits(network, images).argmax(axis=1) == images.labels).mean())


def load_observed(parent: Parent, tensors: Mapping[str, Tensor]) -> Observed:
    """Build a stored network, with its mask generators, or watched if it has none; in evaluation."""
    network = build_network(parent.architecture, tensors)
    observed: Observed
    if parent.generators:
        observed = ModularModel(network, parent.architecture)
        observed.load_generators(tensors)
    else:
        observed = WatchedModel(network, parent.architecture)
    return observed.eval()


def check_data(parent: Parent, data: DataSet) -> None:
    """Refuse data that are not those of a network.

    Raises
    ------
    RecipeError
        Classes or shapes differ.

    """
    if data.classes != parent.classes:
        raise RecipeError(
            f"the data have the classes {', '.join(data.classes)}",
            f"those of {parent.folder}: {', '.join(parent.classes)}",
            "give the data that the network was trained on",
        )
    shape = (data.channels, *data.size)
    if shape != parent.architecture.input_shape:
        raise RecipeError(
            f"images have the shape {shape}",
            f"{parent.architecture.input_shape} as those that the network was trained on",
            "give the data that the network was trained on",
        )


def area_under_curve(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Give the area under the ROC curve: the chance that a positive scores above a negative, equal scores half."""
    order = np.unique(scores, return_inverse=True, return_counts=True)
    _, place, counts = order
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[place]  # the mean rank of equal scores
    positives, negatives = int(positive.sum()), int((~positive).sum())
    above = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def latency_of(network: nn.Module, shape: Sequence[int], repeats: int = _REPEATS) -> float:
    """Measure the time of one image on the processor, in seconds: the median of several, after a few to warm up."""
    network, image = network.to("cpu"), torch.zeros(1, *shape)
    seconds = []
    with in_evaluation(network):
        for number in range(repeats + 3):
            started = time.perf_counter()
            network(image)
            if number >= 3:
                seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
