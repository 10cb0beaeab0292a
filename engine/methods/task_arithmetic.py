"""Task arithmetic: add the weighted sum of task vectors to the base model, https://arxiv.org/abs/2212.04089."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dovetail.engine.kernels.linear import TILE, weighted_task_vectors
from dovetail.engine.methods.decoding import elements
from dovetail.engine.methods.keeps import KeepEverything
from dovetail.engine.methods.method import Masks, Method, Parameter
from dovetail.engine.methods.parameters import merge_number, model_weights, task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, Problem, State
from dovetail.engine.methods.sparsified import SparsifiedSum
from dovetail.engine.methods.task_vector_parameters import (
    INT8_MASK,
    LAMBDA,
    WEIGHT,
    divisor_of,
    make_sparsified,
    normalize,
)


@dataclass(frozen=True, slots=True)
class TaskArithmetic(OnePass):
    """Program of a tensor: W0 + factor * sum(w tau) / divisor."""

    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    weights: tuple[float, ...]
    """The models' weights."""
    divisor: float
    """What the weighted sum is divided by."""
    factor: float
    """What the quotient is multiplied by (lambda)."""

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of three tiles of float32, and of a mask for each model."""
        return (12 + len(self.weights)) * TILE

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
            (nonfinite, kept, squares),
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
    factor = merge_number(problem, "lambda")
    divisor = divisor_of(weights) if problem.parameters["normalize"] else 1.0
    return TaskArithmetic(task_vector_codes(problem), problem.out_code, weights, divisor, factor)


def _marking(problem: Problem) -> SparsifiedSum:
    """Say what the models keep: everything."""
    parameters = {**problem.parameters, "rescale": False}
    return make_sparsified(replace(problem, parameters=parameters), lambda _, model: KeepEverything(), voting=False)


_ACCEPTED = "as nothing is dropped; accepted as mergekit has it"

TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    summary="Add every model's whole change to the base, by weight: use it to combine fine-tunes for "
    "different tasks, and to compare other methods with.",
    paper="https://arxiv.org/abs/2212.04089",
    base="origin",
    parameters=(
        WEIGHT,
        LAMBDA,
        normalize(False),
        # mergekit has these for the whole family.
        Parameter("density", "float", 1.0, f"no effect, {_ACCEPTED}", "model", inert=True),
        Parameter("rescale", "bool", False, f"no effect, {_ACCEPTED}", inert=True),
        INT8_MASK,
    ),
    program=make_program,
    by_name=False,
    masks=Masks("all changes", _marking),
)
"""The row of the table of methods."""
