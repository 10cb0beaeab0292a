"""What a training is asked to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from dovetail.engine.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train."""

    summary: str
    """What it does, in one line."""
    generators: bool
    """Whether convolutions get mask generators."""
    weights: Mapping[str, float]
    """Terms that are added to the cross-entropy, with their weights unless others are asked for."""


METHODS: Final[Mapping[str, Method]] = {
    "mwt": Method(
        "mask generators that agree within a class and differ between classes (arXiv:2306.09376)",
        True,
        {"cohesion": 0.5, "coupling": 1.5},
    ),
    "moda": Method(
        "activations that agree within a class, differ between classes, and are few (arXiv:2411.01074)",
        False,
        {"affinity": 1.0, "dispersion": 1.0, "compactness": 0.3},
    ),
    "nemo": Method(
        "mask generators, with one contrastive term in place of two (arXiv:2508.11348)", True, {"contrast": 1.0}
    ),
    "standard": Method("the cross-entropy alone, for comparison", False, {}),
}
"""Ways to train, by the names that the command line takes."""

OPTIMIZERS: Final[Mapping[str, float]] = {"sgd": 0.05, "adamw": 0.001}
"""Optimizers, with the learning rate that each starts from unless another is asked for."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How a network is trained. The defaults are those of MwT's authors."""

    method: str = "mwt"
    """One of `METHODS`."""
    epochs: int = 200
    """How often every training image is seen."""
    batch: int = 128
    """Images of a batch."""
    optimizer: str = "sgd"
    """One of `OPTIMIZERS`: SGD with Nesterov's momentum of 0.9, or AdamW."""
    rate: float | None = None
    """Learning rate at the start, which falls to 0 along a cosine; None for the optimizer's."""
    decay: float = 0.0
    """Weight decay."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of the method's terms, where others are asked for than its own."""
    temperature: float = 0.2
    """Temperature of the contrastive term."""
    crop: int | None = None
    """Pixels by which training images are moved at most; None for an eighth of their size."""
    flip: bool = False
    """Whether half of the training images are mirrored, left to right."""
    patience: int | None = None
    """Epochs without a better accuracy on the validation set after which training stops, and the best is taken; None
    for all epochs, and the last."""
    mixed: bool = False
    """Whether matrix products are computed in bfloat16."""
    seed: int = 0
    """Decides the first weights, the order of the images, their changes, and dropout."""

    def __post_init__(self) -> None:
        _check_choice("method", self.method, METHODS)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name, least in (("epochs", 1), ("batch", 2), ("seed", 0), ("crop", 0), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", f"at least {least}", "")
        for name, number in (("rate", self.rate), ("temperature", self.temperature)):
            if number is not None and not (math.isfinite(number) and number > 0):
                raise RecipeError(f"{name} is {number}", "a number above 0", "")
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise RecipeError(f"decay is {self.decay}", "a number from 0 on", "")
        for term, weight in self.weights.items():
            if term not in METHODS[self.method].weights:
                terms = ", ".join(METHODS[self.method].weights) or "none"
                raise RecipeError(f"method {self.method} has no term {term!r}", f"one of its terms: {terms}", "")
            if not math.isfinite(weight):
                raise RecipeError(f"the weight of {term} is {weight}", "a finite number", "")

    @property
    def start_rate(self) -> float:
        """Learning rate at the start."""
        return OPTIMIZERS[self.optimizer] if self.rate is None else self.rate

    @property
    def terms(self) -> dict[str, float]:
        """The terms beside the cross-entropy, with the weights that count."""
        return {**METHODS[self.method].weights, **self.weights}

    def to_json(self) -> dict[str, Any]:
        """Give the options as a JSON object."""
        return {**asdict(self), "rate": self.start_rate, "weights": self.terms}


def _check_choice(what: str, value: str, choices: Mapping[str, object]) -> None:
    if value not in choices:
        raise RecipeError(f"{what} is {value!r}", f"one of {', '.join(choices)}", "")
