"""Task arithmetic: add the weighted sum of task vectors to the base model, https://arxiv.org/abs/2212.04089."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.engine.errors import RecipeError
from dovetail.engine.kernels.linear import TILE, weighted_task_vectors
from dovetail.engine.methods.masked import elements
from dovetail.engine.methods.problem import LARGEST, model_weights, sum_float32, task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, Problem, State
from dovetail.engine.methods.table import REQUIRED, Method, Parameter

SMALLEST_DIVISOR = 1e-8
"""A sum of weights below this does not divide, as in mergekit."""


@dataclass(frozen=True, slots=True)
class TaskArithmetic:
    """W0 + factor * sum(w tau) / divisor."""

    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    weights: tuple[float, ...]
    """The models' weights."""
    divisor: float
    """What the weighted sum is divided by."""
    factor: float
    """What it is multiplied by then (lambda)."""

    @property
    def reduce_passes(self) -> int:
        """None: the sum is elementwise."""
        return 0

    @property
    def partial_bytes(self) -> int:
        """None: there are no reduce passes."""
        return 0

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Need just the chunk itself."""
        return start, stop

    def scratch_bytes(self, elements: int) -> int:
        """Three tiles of float32 and a mask for each model."""
        return (12 + len(self.weights)) * TILE

    def reduce(self, step: int, chunk: Chunk, state: State) -> Any:
        """Never called: there are no reduce passes."""
        raise AssertionError("task arithmetic has no reduce passes")

    def combine(self, step: int, partials: Sequence[Any], state: State) -> State:
        """Never called: there are no reduce passes."""
        raise AssertionError("task arithmetic has no reduce passes")

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        assert chunk.base is not None
        count = len(self.weights)
        kept, squares = np.zeros((count, count), np.int64), np.zeros(count + 1)
        nonfinite = np.zeros(count + 1, np.int64)
        sources = zip((chunk.base, *chunk.models), self.codes, strict=True)
        overflowed = weighted_task_vectors(
            tuple(elements(chunk, raw, code, chunk.start, chunk.stop) for raw, code in sources),
            np.array(self.codes, np.int64),
            np.array(self.weights, np.float32),
            (np.float32(self.divisor), np.float32(self.factor)),
            out,
            self.out_code,
            nonfinite,
            kept,
            squares,
        )
        return ChunkStatistics(
            kept=kept,
            delta_square=squares[:count],
            kept_square=squares[:count].copy(),
            merged_square=float(squares[count]),
            overflowed=overflowed,
            nonfinite=nonfinite,
        )


def make_program(problem: Problem) -> TaskArithmetic:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        A weight or lambda cannot be used.

    """
    weights = model_weights(problem)
    factor = float(problem.parameters["lambda"])
    if not math.isfinite(factor) or abs(factor) > LARGEST:
        raise RecipeError(
            f"lambda is {factor} for tensor {problem.name!r}",
            "a finite number within the range of float32",
            "correct 'lambda' in the recipe",
        )
    divisor = sum_float32(weights) if problem.parameters["normalize"] else 1.0
    if abs(divisor) < SMALLEST_DIVISOR:
        divisor = 1.0
    return TaskArithmetic(task_vector_codes(problem), problem.out_code, weights, divisor, factor)


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    summary="Add every model's whole change to the base, by weight: the plain way to combine fine-tunes for "
    "different tasks, and the one to compare others with.",
    paper="https://arxiv.org/abs/2212.04089",
    base="required",
    parameters=(
        Parameter("weight", "float", REQUIRED, "factor of the model's change", "model"),
        Parameter("lambda", "float", 1.0, "factor of the sum of all changes"),
        Parameter("normalize", "bool", False, "divide the sum of changes by the sum of the weights"),
        Parameter("int8_mask", "bool", False, "no effect; accepted as mergekit has it"),
    ),
    program=make_program,
    by_name=False,
)
"""The row of the table of methods."""
