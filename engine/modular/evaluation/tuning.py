"""Learning a little on top: fine-tuning of composed modules, and making branches comparable."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dovetail.engine.errors import RecipeError
from dovetail.engine.events import Listener, ignore
from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.evaluation.in_memory import MadeModule
from dovetail.engine.modular.extraction.joining import Calibration
from dovetail.engine.modular.training.activities import WatchedModel
from dovetail.engine.modular.training.loop import Training
from dovetail.engine.modular.training.options import TrainingOptions

LEAST_SCALE: Final = 1e-3
"""Least of one over a temperature: a branch that knows nothing gets this, and its logits no say."""


def fine_tune(
    module: MadeModule,
    data: DataSet,
    numbers: Sequence[int],
    options: TrainingOptions,
    device: torch.device,
    listen: Listener = ignore,
) -> None:
    """Train a composed module on, on the training images of its classes; the epoch is chosen by validation.

    Parameters
    ----------
    module
        The module; its weights are changed.
    data
        The data set of the network that it comes from.
    numbers
        The classes of the module, in the order of its logits.
    options
        How it is trained; the method must be ``standard``.
    device
        Where to compute.
    listen
        Receives events.

    """
    chosen = tuple(data.classes[number] for number in numbers)
    parts = {kind: getattr(data, kind).of_classes(numbers) for kind in ("train", "validation", "test")}
    own = DataSet(data.name, chosen, parts["train"], parts["validation"], parts["test"])
    for parameter in module.network.parameters():
        parameter.requires_grad_()
    watched = WatchedModel(module.network, module.architecture).to(device)
    with tempfile.TemporaryDirectory() as folder:
        every = dataclasses.replace(options, patience=options.epochs)
        Training(watched, own, every, Path(folder), {}).run(listen)


def calibrate(branches: Sequence[NDArray[np.floating]], labels: NDArray[np.int64]) -> list[Calibration]:
    """Fit temperature and bias of every branch, so that the softmax over all logits is as right as it can be.

    The cross-entropy is convex in the bias and in one over the temperature, so that there is one best fit. The first
    branch's bias is 0: only differences count.

    Parameters
    ----------
    branches
        Logits of the branches for images of a validation set, of shape (samples, classes of the branch) each.
    labels
        Class of each image among the classes of all branches, side by side.

    Raises
    ------
    RecipeError
        There is no image of some class, so that nothing would hold its logit.

    """
    logits = [torch.from_numpy(np.asarray(each, np.float64)) for each in branches]
    classes = sum(each.shape[1] for each in logits)
    if missing := sorted(set(range(classes)) - set(labels.tolist())):
        raise RecipeError(f"no image is of class {missing[0]}", "images of every class, to calibrate by", "")
    target = torch.from_numpy(labels)
    scales = torch.ones(len(logits), dtype=torch.float64, requires_grad=True)
    shifts = torch.zeros(len(logits), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([scales, shifts], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def loss() -> torch.Tensor:
        solver.zero_grad()
        joined = torch.cat([each * scales[number] + shifts[number] for number, each in enumerate(logits)], dim=1)
        # A little pull towards 1 and 0 decides where branches are so right that no scale is large enough.
        pull = 1e-4 * ((scales - 1).square().sum() + shifts.square().sum())
        value: torch.Tensor = functional.cross_entropy(joined, target) + pull
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    found = zip(scales.tolist(), (shifts - shifts[0]).tolist(), strict=True)
    return [Calibration(1 / max(scale, LEAST_SCALE), shift) for scale, shift in found]
