"""What oracles are given and what they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One tensor of a merge."""

    method: str
    """Name of the method."""
    base: Floats | None
    """The base model's tensor."""
    models: tuple[Floats, ...]
    """The models' tensors."""
    parameters: Mapping[str, Any]
    """Parameters of the merge, defaults included."""
    model_parameters: tuple[Mapping[str, Any], ...]
    """Parameters of each model, defaults included."""
    random_masks: tuple[Mask, ...] | None = None
    """What models keep, for methods with random masks."""
    uniform: Callable[[int, int], float] | None = None
    """Random numbers by model and index, where there are no `random_masks`."""

    @property
    def origin(self) -> Floats:
        """The base model's tensor, of a method that must have one."""
        assert self.base is not None
        return self.base

    def each(self, name: str) -> list[Any]:
        """A parameter's value for each model."""
        return [one[name] for one in self.model_parameters]

    def taus(self) -> tuple[Floats, ...]:
        """Task vectors."""
        return tuple(model - self.origin for model in self.models)


@dataclass(frozen=True)
class Result:
    """What an oracle finds."""

    output: Floats
    """The merged tensor."""
    operands: Doubles
    """The largest magnitude on the way to each element: of the models' and the base's values, of what enters an
    addition, of the element itself. Units in the last place are counted there."""
    masks: tuple[Mask, ...] = ()
    """What each model keeps, for methods that select."""
    exact: bool = True
    """Whether the output is defined to the bit."""
    doubtful: Mask | None = None
    """Elements whose selection hangs on the rounding of a score, for methods with scores."""

    def tolerance(self, ulps: float = 2) -> Doubles:
        """Difference per element that so many units in the last place of the largest operand make up."""
        return ulps * spacing(self.operands)


def spacing(values: Array) -> Doubles:
    """Distance from each magnitude to the next float32."""
    magnitudes = np.minimum(np.abs(values), float(np.finfo(np.float32).max)).astype(np.float32)
    return np.spacing(magnitudes).astype(np.float64)


def largest(*arrays: Array) -> Doubles:
    """Find the largest magnitude per element."""
    found = np.abs(np.asarray(arrays[0], np.float64))
    for array in arrays[1:]:
        found = np.maximum(found, np.abs(np.asarray(array, np.float64)))
    return found


def partial_sums(values: Sequence[Array]) -> list[Doubles]:
    """Give the terms of a sum, and what they add up to on the way, as operands of its additions."""
    terms = [np.asarray(value, np.float64) for value in values]
    return [*terms, *np.cumsum(terms, axis=0)[1:]]


def add_up(values: Sequence[Floats]) -> Floats:
    """Sum in float32, in order."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def rounded(values: Doubles, *operands: Array, exact: bool = False) -> Result:
    """Round a result found in float64 once."""
    output = values.astype(np.float32)
    return Result(output, largest(output, *operands), exact=exact)
