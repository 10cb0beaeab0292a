"""Whether CABS over whole kernels helps: fine-tunes of one network of convolutions, merged in several ways.

    python bench/kernel_merging.py                         # Fashion-MNIST, a narrow SimCNN, 3 seeds: some minutes
    python bench/kernel_merging.py --data shapes --network tiny --epochs 4    # a moment

A base network learns all classes from a part of the training images. Two fine-tunes go on from it, one with images of
the first half of the classes, the other with those of the second half; both keep all logits, and each forgets the
other's half. They are merged by every way below, each with the weight that is best on validation images, and tested on
all classes. BatchNorm's statistics are merged like weights; a second figure is after they have been measured again on
training images, as is usual for merged networks of convolutions.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from report import print_table, write_results
from torch import Tensor, nn

from dovetail.engine import merge_tensors
from dovetail.engine.modular.data.batches import Augmentation, Normalisation, order_of, training_batch
from dovetail.engine.modular.data.images import DataSet, Images
from dovetail.engine.modular.data.opening import open_data
from dovetail.engine.modular.pytorch.networks import NetworkOptions, make_network
from dovetail.engine.modular.training.predictions import accuracy

WEIGHTS = (0.3, 0.5, 0.7, 1.0, 1.3)
CPU = torch.device("cpu")

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean of the weights": ("linear", {}),
    "task arithmetic": ("task_arithmetic", {}),
    "ties, density 1/2": ("ties", {"density": 0.5}),
    "magnitude, density 1/2": ("magnitude", {"density": 0.5}),
    "cabs 2:4, weights": ("cabs", {"n": 2, "m": 4}),
    "cabs 2:4, kernels": ("cabs", {"n": 2, "m": 4, "granularity": "kernel"}),
    "n:m 2:4, weights": ("nm_pruning", {"n": 2, "m": 4}),
    "n:m 2:4, kernels": ("nm_pruning", {"n": 2, "m": 4, "granularity": "kernel"}),
    "cabs 1:2 by magnitude": ("cabs", {"n": 1, "m": 2, "balanced": False}),
}
"""Method and parameters by what they are called."""


class Case:
    """One seed: the data, the base network and its two fine-tunes."""

    def __init__(self, data: DataSet, options: argparse.Namespace, seed: int) -> None:
        self.data, self.seed = data, seed
        self.normalise = Normalisation.of(data.train)
        half = len(data.classes) // 2
        first = data.train.labels < half
        part = data.train.take(np.arange(len(data.train)) % options.share == 0)
        shape = NetworkOptions(len(data.classes), data.channels, data.size[0], options.width)
        self.base = make_network(options.network, shape, seed)
        self._train(self.base, part, options.epochs, options.rate)
        self.tuned = [copy.deepcopy(self.base) for _ in range(2)]
        for model, images in zip(self.tuned, (data.train.take(first), data.train.take(~first)), strict=True):
            self._train(model, images, options.tune_epochs, options.rate / 5)

    def _train(self, model: nn.Module, images: Images, epochs: int, rate: float) -> None:
        torch.manual_seed(self.seed)
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True)
        batches = -(-len(images) // 128)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
        model.train()
        for epoch in range(epochs):
            order = order_of(self.seed, epoch, len(images))
            for batch in range(batches):
                pixels, labels = training_batch(images, order, 128, batch, Augmentation(2), (self.seed, epoch))
                loss = nn.functional.cross_entropy(model(self.normalise(pixels)), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    def accuracy(self, state: Mapping[str, Tensor], images: Images) -> float:
        """Give the accuracy of the network with other tensors."""
        model = copy.deepcopy(self.base)
        model.load_state_dict(dict(state))
        return accuracy(model, images, self.normalise, CPU)

    def remeasured(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Measure BatchNorm's statistics again, over some thousand training images."""
        model = copy.deepcopy(self.base)
        model.load_state_dict(dict(state))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        model.train()
        order = order_of(self.seed, 0, len(self.data.train))
        with torch.no_grad():
            for batch in range(20):
                pixels, _ = training_batch(self.data.train, order, 128, batch, Augmentation(), (self.seed, 0))
                model(self.normalise(pixels))
        return model.state_dict()

    def merged(self, method: str, parameters: Mapping[str, Any], weight: float) -> dict[str, Tensor]:
        """Merge the fine-tunes; counters, which are integers, are the base network's."""
        states = [_floats(model) for model in (self.base, *self.tuned)]
        base = None if method == "linear" else states[0]
        made = merge_tensors(method, states[1:], base, parameters={**parameters, "weight": weight})
        return {**self.base.state_dict(), **made}

    def best(self, method: str, parameters: Mapping[str, Any]) -> tuple[float, float, float]:
        """Give the weight that is best on validation images, and with it test accuracies, as merged and remeasured."""
        weights = (0.5,) if method == "linear" else WEIGHTS
        found = {weight: self.merged(method, parameters, weight) for weight in weights}
        plain = max(weights, key=lambda each: self.accuracy(found[each], self.data.validation))
        again = {weight: self.remeasured(state) for weight, state in found.items()}
        tuned = max(weights, key=lambda each: self.accuracy(again[each], self.data.validation))
        test = self.data.test
        return plain, self.accuracy(found[plain], test), self.accuracy(again[tuned], test)


def _floats(model: nn.Module) -> dict[str, Tensor]:
    return {name: each for name, each in model.state_dict().items() if each.is_floating_point()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", help="as for dovetail modules train [fashion-mnist]")
    parser.add_argument("--network", default="simcnn", help="as for dovetail modules train [simcnn]")
    parser.add_argument("--width", type=float, default=0.125, help="factor on its kernels [0.125]")
    parser.add_argument("--share", type=int, default=6, help="the base learns from one image in so many [6]")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the base [3]")
    parser.add_argument("--tune-epochs", type=int, default=2, help="epochs of the fine-tunes [2]")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate [0.05]")
    parser.add_argument("--seeds", type=int, default=3, help="seeds [3]")
    options = parser.parse_args()
    data = open_data(options.data)
    results: dict[str, list[tuple[float, ...]]] = {name: [] for name in ("base", "fine-tune 1", "fine-tune 2", *WAYS)}
    for seed in range(options.seeds):
        case = Case(data, options, seed)
        for name, model in zip(("base", "fine-tune 1", "fine-tune 2"), (case.base, *case.tuned), strict=True):
            found = case.accuracy(model.state_dict(), data.test)
            results[name].append((1.0, found, found))
        for name, (method, parameters) in WAYS.items():
            results[name].append(case.best(method, parameters))
        print(f"seed {seed} done", flush=True)
    rows = [
        [name, f"{statistics.median(each[0] for each in found):g}", *(_spread([e[i] for e in found]) for i in (1, 2))]
        for name, found in results.items()
    ]
    print_table(
        f"Test accuracy over all classes in percent, {options.network} on {data.name}, mean and range over seeds",
        ("", "weight", "as merged", "BatchNorm measured again"),
        rows,
    )
    write_results("kernel_merging", {"options": vars(options), "accuracies": results})


def _spread(values: list[float]) -> str:
    low, high = 100 * min(values), 100 * max(values)
    return f"{100 * statistics.mean(values):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
