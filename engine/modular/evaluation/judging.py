"""Figures of a stored network and of its modules, as ``dovetail modules evaluate`` gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import torch

from dovetail.engine.errors import RecipeError
from dovetail.engine.events import Listener, Notice, ignore
from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.evaluation.figures import ClassFigures, Evaluation, latency_of
from dovetail.engine.modular.evaluation.tuning import fine_tune
from dovetail.engine.modular.network.costs import Costs, costs_of
from dovetail.engine.modular.network.parent import Parent
from dovetail.engine.modular.training.options import TrainingOptions
from dovetail.engine.modular.training.predictions import normalisation_of

COMPOSED: Final = (2, 3, 5, 10)
"""Numbers of classes that are composed unless others are asked for."""

MOST_CHOICES: Final = 3
"""Most choices of classes of one number that are composed, whose figures are averaged."""

TUNING_RATE: Final = 0.01
"""Learning rate of fine-tuning."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judging:
    """What is to be found out."""

    threshold: float | None = None
    """Share of samples from which on a kernel is a class's own; None for the network's."""
    masks: str | None = None
    """What becomes of soft masks in modules: generators, folded or hard; None for generators where there are some."""
    compose: tuple[int, ...] = COMPOSED
    """Numbers of classes to compose; those that the network does not have are left out."""
    tune: int = 0
    """Epochs of fine-tuning of composed modules; 0 for none."""
    seed: int = 0
    """Seed of the fine-tuning."""
    latency: bool = True
    """Whether times are measured."""


def judge(
    parent: Parent, data: DataSet, judging: Judging, device: torch.device, listen: Listener = ignore
) -> dict[str, Any]:
    """Find out how good a network and its modules are, on the test set.

    Parameters
    ----------
    parent
        The network.
    data
        A data set with its classes. Only fine-tuning looks at more than the test set.
    judging
        What is to be found out.
    device
        Where to compute. Times are measured on the processor.
    listen
        Receives events.

    Returns
    -------
    dict
        ``model``, ``modules`` (one for each class) and ``composed`` (one for each number of classes), as JSON.

    Raises
    ------
    DovetailError
        The data are not the network's, or the network is damaged or has no counts.

    """
    if any(number < 1 for number in judging.compose):
        raise RecipeError(f"{min(judging.compose)} classes are to be composed", "at least 1", "")
    found = Evaluation(
        parent,
        data,
        normalisation_of(parent.inputs, data),
        threshold=judging.threshold,
        masks=judging.masks,
        device=device,
    )
    classes = [found.of_class(number) for number in range(len(parent.classes))]
    counts = [count for count in judging.compose if count <= len(parent.classes)]
    composed = [_composed(found, count, judging, listen) for count in counts]
    model = {
        "accuracy": found.accuracy(),
        "retention": found.retention(),
        "coupling": found.coupling(),
        "cohesion": sum(each.cohesion for each in classes) / len(classes),
        "threshold": parent.threshold if judging.threshold is None else judging.threshold,
        **_costs(costs_of(parent.whole)),
    }
    if judging.latency:
        model["latency_s"] = latency_of(found.observed, parent.architecture.input_shape)
    return {"model": model, "modules": [_class_json(each) for each in classes], "composed": composed}


def choices(classes: int, count: int) -> list[list[int]]:
    """Choose classes to compose: neighbours, each in one choice, at most `MOST_CHOICES`."""
    starts = range(0, classes - count + 1, count)
    return [list(range(start, start + count)) for start in starts][:MOST_CHOICES]


def _composed(found: Evaluation, count: int, judging: Judging, listen: Listener) -> dict[str, Any]:
    """Average the figures of some compositions of so many classes."""
    rows = []
    for numbers in choices(len(found.parent.classes), count):
        module, right = found.composed(numbers)
        row = {"accuracy": right, "model_accuracy": found.among(numbers), **_costs(costs_of(module.architecture))}
        if judging.latency:
            row["latency_s"] = latency_of(module.network, found.parent.architecture.input_shape)
        if judging.tune:
            listen(Notice("info", f"fine-tuning the modules of {', '.join(found.parent.classes[n] for n in numbers)}"))
            options = TrainingOptions("standard", epochs=judging.tune, rate=TUNING_RATE, seed=judging.seed)
            fine_tune(module, found.data, numbers, options, found.device)
            row["tuned_accuracy"] = found.right(module.network, found.data.test.of_classes(numbers))
        rows.append(row)
    return {"classes": count, **{key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}}


def _costs(costs: Costs) -> dict[str, Any]:
    return {"parameters": costs.parameters, "multiplications": costs.multiplications}


def _class_json(figures: ClassFigures) -> dict[str, Any]:
    return {
        "class": figures.name,
        "kernels": figures.kernels,
        **_costs(figures.costs),
        "recall": figures.recall,
        "specificity": figures.specificity,
        "balanced": figures.balanced,
        "area": figures.area,
        "cohesion": figures.cohesion,
    }


def class_range(text: str) -> tuple[int, ...]:
    """Read numbers of classes with commas between them; raises a RecipeError if it has others."""
    parts: Sequence[str] = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise RecipeError(f"--compose is {text!r}", "numbers of classes with commas between them, as in 2,3,5", "")
    return tuple(int(part) for part in parts)
