"""NearSwap: take the other model's values where they are near the base model's.

https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.engine.kernels.convert import encode
from dovetail.engine.kernels.pointwise import near_swap
from dovetail.engine.kernels.statistics import count_nonfinite
from dovetail.engine.methods.decoding import STRETCH, Values, plain_statistics, stretches
from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.methods.parameters import merge_number, task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, Problem, State

LEAST_DISTANCE = 1e-6
"""Least divisor: a smaller distance is replaced by it, as in mergekit."""


@dataclass(frozen=True, slots=True)
class NearSwap(OnePass):
    """Program of a tensor: w W1 + (1 - w) W0 with w = clip(t / max(abs(W0 - W1), 1e-6), 0, 1)."""

    codes: tuple[int, ...]
    """Dtype codes of the tensors of the base model and of the other model."""
    out_code: int
    """Dtype code of the output."""
    t: float
    """Distance up to which the other model's value is taken unchanged."""

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of both sources and of the result of a stretch."""
        return 12 * min(elements, STRETCH)

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        size = min(STRETCH, chunk.stop - chunk.start)
        values, result, overflowed = Values(chunk, self.codes, size), np.empty(size, np.float32), 0
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            base, other = values.load(start, stop, (start, stop))
            merged = result[: stop - start]
            near_swap(base, other, np.float32(self.t), np.float32(LEAST_DISTANCE), merged)
            overflowed += count_nonfinite(merged)
            overflowed += encode(merged, self.out_code, start - chunk.start, stop - chunk.start, out)
        return plain_statistics(1, overflowed, values.nonfinite)


def make_program(problem: Problem) -> NearSwap:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        `t` cannot be used.

    """
    return NearSwap(task_vector_codes(problem), problem.out_code, merge_number(problem, "t"))


NEARSWAP = Method(
    name="nearswap",
    summary="Take the other model's values where they are near the base model's, less of them the farther they are: "
    "use it to season a model with another without changing what makes it different.",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    base="pair",
    parameters=(Parameter("t", "float", REQUIRED, "distance up to which the other model's value is taken whole"),),
    program=make_program,
    by_name=False,
    min_models=1,
    max_models=1,
)
"""The row of the table of methods."""
