"""The contract of programs that can say what each model keeps of a tensor, apart from how that is added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dovetail.engine.methods.masked import BeginSum, StretchSum
from dovetail.engine.methods.program import Bytes, Chunk, Program, State


@dataclass(frozen=True, slots=True)
class Addition:
    """How the kept parts of task vectors add up."""

    weights: tuple[float, ...]
    """The models' weights."""
    rescales: bool
    """Whether each part is multiplied by its rescaling factor."""
    voting: bool
    """Whether signs are elected."""
    by_count: bool
    """Whether a mean divides by the number of models with the elected sign, rather than by their weights."""
    normalize: bool
    """Whether the sum of the contributions with the elected sign is divided, to be a mean."""
    divisor: float
    """What the sum is divided by without an election; 1 if it is not."""
    factor: float
    """What the sum, or quotient, is multiplied by (lambda)."""


class Marking(Program, Protocol):
    """A program that can say what each model keeps, apart from how that is added up."""

    def frugal(self) -> Marking:
        """Give a program that keeps the same, as `Program.frugal` says."""
        ...

    def mark(self, chunk: Chunk, state: State, begin: BeginSum, out: Bytes) -> StretchSum:
        """Go through a chunk stretch by stretch, and hand what each model keeps to a sum, which `begin` makes.

        Every stretch is begun, then every model's part is added in order, then it is finished; `out` is handed on.
        """
        ...

    def marking_bytes(self, elements: int) -> int:
        """Bytes of working memory of `mark` for a window of so many elements, a sum that it makes included."""
        ...

    @property
    def addition(self) -> Addition:
        """How the kept parts add up."""
        ...

    def scales(self, state: State) -> tuple[float, ...]:
        """Give what each model's kept part is multiplied by if it is rescaled."""
        ...

    def most_kept(self, model: int, elements: int) -> int:
        """Give the most of so many elements in a row that a model can keep."""
        ...
