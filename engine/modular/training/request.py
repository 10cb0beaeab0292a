"""What a user asks to be trained, and all of it that decides the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import xxhash
from torch import nn

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.pytorch.networks import NetworkOptions, make_network
from dovetail.engine.modular.training.activities import watch
from dovetail.engine.modular.training.masks import modularize
from dovetail.engine.modular.training.options import METHODS, TrainingOptions
from dovetail.engine.modular.training.predictions import Observed


@dataclass(frozen=True, slots=True)
class Request:
    """One training, as a user asks for it."""

    data: str
    """The data set: a name or a path."""
    network: str = "simcnn"
    """The network: one of `NETWORKS`, or ``module:function``."""
    width: float = 1.0
    """Factor on the number of kernels of a named network."""
    options: TrainingOptions = field(default_factory=TrainingOptions)
    """How it is trained."""
    device: str = "auto"
    """Device of torch; ``auto`` for a GPU where there is one."""

    def identity(self, data: DataSet) -> dict[str, Any]:
        """Give all that decides the result, as JSON; two requests that agree in it give the same network."""
        return {
            "network": self.network,
            "width": self.width,
            "data": digest_of_data(data),
            "options": self.options.to_json(),
        }


def digest_of_data(data: DataSet) -> str:
    """Compute the XXH3-64 of all classes, images and labels, as ``xxh3-64:`` and hexadecimal digits."""
    digest = xxhash.xxh3_64("\0".join(data.classes).encode())
    for images in (data.train, data.validation, data.test):
        digest.update(str(images.pixels.shape).encode())
        digest.update(images.pixels.tobytes())
        digest.update(images.labels.tobytes())
    return f"xxh3-64:{digest.hexdigest()}"


def choose_device(name: str) -> torch.device:
    """Find the device to compute on.

    Raises
    ------
    RecipeError
        torch has no such device, or it cannot be used.

    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise RecipeError(
            f"device {name!r} cannot be used ({reason})", "auto, cpu, or cuda where there is one"
        ) from error
    return device


def make_observed(request: Request, data: DataSet) -> Observed:
    """Make the network that is asked for, with what its method needs, on the device to train on.

    Raises
    ------
    RecipeError
        There is no such network or device, or the network does not fit the data.
    ArchitectureError
        The network has a layer that is not supported.

    """
    device = choose_device(request.device)
    shape = NetworkOptions(len(data.classes), data.channels, square_size(data.size), request.width)
    network = make_network(request.network, shape, request.options.seed)
    example = torch.zeros(2, data.channels, *data.size)
    observed: Observed
    if METHODS[request.options.method].generators:
        observed = modularize(network, example, request.options.seed)
    else:
        observed = watch(network, example)
    check_logits(observed, data.classes)
    moved: Any = nn.Module.to(observed, device)
    found: Observed = moved
    return found


def square_size(size: tuple[int, int]) -> int:
    """Give height and width of square images; raises a RecipeError for others."""
    if size[0] != size[1]:
        raise RecipeError(f"images are {size[1]} x {size[0]} pixels", "square ones", "cut them to squares")
    return size[0]


def check_logits(observed: Observed, classes: Sequence[str]) -> None:
    """Refuse a network that does not give one logit for each class; raises a RecipeError."""
    architecture = observed.architecture
    shape = architecture.shapes[architecture.output]
    if shape != (len(classes),):
        raise RecipeError(
            f"the network gives {list(shape)} values for an image",
            f"one for each of {len(classes)} classes",
            "let it end in a linear layer of that many features",
        )
