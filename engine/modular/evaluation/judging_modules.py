"""Figures of a stored module, and a calibration of the branches of one that was composed of several networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.data.images import DataSet, Images
from dovetail.engine.modular.evaluation.figures import latency_of
from dovetail.engine.modular.evaluation.tuning import calibrate
from dovetail.engine.modular.extraction.document import Module
from dovetail.engine.modular.extraction.joining import BRANCH
from dovetail.engine.modular.network.costs import costs_of
from dovetail.engine.modular.pytorch.loading import load_module
from dovetail.engine.modular.training.predictions import logits_of, normalisation_of


def judge_module(
    module: Module, data: DataSet, device: torch.device, *, latency: bool = True, fit: bool = False
) -> dict[str, Any]:
    """Find out how good a stored module is, on the test images of its classes.

    Parameters
    ----------
    module
        The module.
    data
        A data set that has its classes, by name.
    device
        Where to compute. Times are measured on the processor.
    latency
        Whether the time of an image is measured.
    fit
        Whether the branches of a module of several networks are calibrated, by the validation set.

    Returns
    -------
    dict
        ``accuracy``, sizes, ``classes`` with the share of each that is right, and with `fit` ``calibrations`` and
        ``calibrated_accuracy``, as JSON.

    Raises
    ------
    RecipeError
        The data lack a class, have images of another shape, or there is nothing to calibrate.

    """
    numbers = _numbers(module, data)
    network = load_module(module.folder).to(device)
    normalise = normalisation_of(module.description.parents[0].inputs, data)  # branches take inputs as the first does
    test = data.test.of_classes(numbers)
    logits = logits_of(network, test, normalise, device)
    right = logits.argmax(axis=1) == test.labels
    costs = costs_of(module.description.architecture)
    found: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "parameters": costs.parameters,
        "multiplications": costs.multiplications,
        "classes": [
            {"class": name, "images": int((test.labels == number).sum()), "right": _share(right, test, number)}
            for number, name in enumerate(module.description.classes)
        ],
    }
    if latency:
        found["latency_s"] = latency_of(network, module.description.architecture.input_shape)
    if fit:
        chosen = data.validation.of_classes(numbers)
        given = logits_of(network.to(device), chosen, normalise, device)
        found |= _calibrated(module, given, chosen, logits, test)
    return found


def _numbers(module: Module, data: DataSet) -> list[int]:
    """Find the module's classes and shape among the data; raises a RecipeError if they are not there."""
    if missing := [name for name in module.description.classes if name not in data.classes]:
        raise RecipeError(
            f"the data have no class {missing[0]!r}",
            f"all classes of {module.folder}: {', '.join(module.description.classes)}",
            "give data that have them",
        )
    shape, wanted = (data.channels, *data.size), module.description.architecture.input_shape
    if shape != wanted:
        raise RecipeError(f"images have the shape {shape}", f"{wanted} as the module takes them", "give other data")
    return [data.classes.index(name) for name in module.description.classes]


def _share(right: Any, images: Images, number: int) -> float:
    own = right[images.labels == number]
    return float(own.mean()) if len(own) else float("nan")


def _calibrated(module: Module, given: Any, chosen: Images, logits: Any, test: Images) -> dict[str, Any]:
    """Calibrate branches by validation, on top of the calibration that they have; give both in one."""
    description = module.description
    if len(description.parents) < 2:
        raise RecipeError(
            f"{module.folder} is of one network", "a module composed of modules of several", "leave --calibrate out"
        )
    places = [[description.classes.index(name) for name in origin.classes] for origin in description.parents]
    order = [place for each in places for place in each]
    labels = np.argsort(order)[chosen.labels]
    fitted = calibrate([given[:, each] for each in places], labels)
    scaled = logits.astype(np.float64).copy()
    calibrations = []
    for number, (each, calibration) in enumerate(zip(places, fitted, strict=True)):
        scaled[:, each] = scaled[:, each] / calibration.temperature + calibration.bias
        node = description.architecture.node(f"{BRANCH.format(number)}calibration")
        scale, shift = node.number("scale"), node.number("shift")
        temperature = calibration.temperature / scale
        bias = shift / calibration.temperature + calibration.bias
        calibrations.append({"parent": description.parents[number].name, "temperature": temperature, "bias": bias})
    accuracy = float((scaled.argmax(axis=1) == test.labels).mean())
    return {"calibrations": calibrations, "calibrated_accuracy": accuracy}
