"""Weighted averages of models, https://arxiv.org/abs/2203.05482 (model soups)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.engine.errors import RecipeError
from dovetail.engine.kernels.linear import PART, weighted_sum
from dovetail.engine.methods.decoding import elements, plain_statistics
from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.methods.parameters import model_weights, sum_float32
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, Problem, State


@dataclass(frozen=True, slots=True)
class Linear(OnePass):
    """Program of a tensor: sum(w W) / divisor. A base model takes part only if it is also one of the models."""

    codes: tuple[int, ...]
    """Dtype codes of the models' tensors."""
    out_code: int
    """Dtype code of the output."""
    weights: tuple[float, ...]
    """The models' weights."""
    divisor: float
    """What the weighted sum is divided by."""

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of two tiles of float32."""
        return 8 * PART

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        count, unused = len(self.codes), 0 if chunk.base is None else 1
        nonfinite = np.zeros(unused + count, np.int64)
        sources = zip(chunk.models, self.codes, strict=True)
        overflowed = weighted_sum(
            tuple(elements(chunk, raw, code, chunk.start, chunk.stop) for raw, code in sources),
            np.array(self.codes, np.int64),
            np.array(self.weights, np.float32),
            np.float32(self.divisor),
            out,
            self.out_code,
            nonfinite[unused:],
        )
        return plain_statistics(count, overflowed, nonfinite)


def make_program(problem: Problem) -> Linear:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        A weight cannot be used, or the weights add up to zero and are to be divided by their sum.

    """
    weights = model_weights(problem)
    divisor = sum_float32(weights) if problem.parameters["normalize"] else 1.0
    if divisor == 0:
        raise RecipeError(
            f"the weights for tensor {problem.name!r} add up to 0",
            "another sum, as 'normalize' divides by it",
            "correct the weights or set 'normalize: false'",
        )
    return Linear(problem.model_codes, problem.out_code, weights, divisor)


LINEAR = Method(
    name="linear",
    summary="Average whole models by weight: use it for fine-tunes of one base for the same task (model soups).",
    paper="https://arxiv.org/abs/2203.05482",
    base="member",
    parameters=(
        Parameter("weight", "float", REQUIRED, "the model's share", "model"),
        Parameter("normalize", "bool", True, "divide by the sum of the weights"),
    ),
    program=make_program,
    by_name=False,
    divides_weights="normalize",
)
"""The row of the table of methods."""
