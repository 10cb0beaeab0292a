"""The cases that oracles take and the results that they give."""

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
    """The elements that each model keeps, for methods with random masks."""
    uniform: Callable[[int, int], float] | None = None
    """Function from model and index to a random number, used without `random_masks`."""

    @property
    def origin(self) -> Floats:
        """The base model's tensor, for methods that require one."""
        assert self.base is not None
        return self.base

    def each(self, name: str) -> list[Any]:
        """A parameter's value for each model."""
        return [one[name] for one in self.model_parameters]

    def taus(self) -> tuple[Floats, ...]:
        """Compute the task vectors of all models."""
        return tuple(model - self.origin for model in self.models)


@dataclass(frozen=True)
class Result:
    """The result of an oracle for one tensor."""

    output: Floats
    """The merged tensor."""
    operands: Doubles
    """For each element, the largest magnitude in its computation: of the values of models and base, of the operands of
    additions, and of the element itself. Tolerances are in units in the last place of it."""
    masks: tuple[Mask, ...] = ()
    """The elements that each model keeps, for methods that select."""
    exact: bool = True
    """Whether the output is defined to the bit."""
    doubtful: Mask | None = None
    """Elements that rounding a score may select or not, for methods that select by scores."""

    def tolerance(self, ulps: float = 2) -> Doubles:
        """Compute, for each element, the size of `ulps` units in the last place of its largest operand."""
        return ulps * spacing(self.operands)


def spacing(values: Array) -> Doubles:
    """Compute the distance from each magnitude to the next float32."""
    magnitudes = np.minimum(np.abs(values), float(np.finfo(np.float32).max)).astype(np.float32)
    return np.spacing(magnitudes).astype(np.float64)


def largest(*arrays: Array) -> Doubles:
    """Find, for each element, the largest magnitude in several arrays."""
    found = np.abs(np.asarray(arrays[0], np.float64))
    for array in arrays[1:]:
        found = np.maximum(found, np.abs(np.asarray(array, np.float64)))
    return found


def partial_sums(values: Sequence[Array]) -> list[Doubles]:
    """List the operands of the additions of a sum: its terms, and the partial sums."""
    terms = [np.asarray(value, np.float64) for value in values]
    return [*terms, *np.cumsum(terms, axis=0)[1:]]


def add_up(values: Sequence[Floats]) -> Floats:
    """Sum values in float32, in their order."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def rounded(values: Doubles, *operands: Array, exact: bool = False) -> Result:
    """Make a result of values in float64, which are rounded once."""
    output = values.astype(np.float32)
    return Result(output, largest(output, *operands), exact=exact)
