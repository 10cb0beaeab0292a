"""Consensus task arithmetic: TALL masks, and the elements on which enough of them agree.

https://arxiv.org/abs/2405.07813. An element is important to model t where the merged task vector tau_mt = sum(w tau)
does not drown its own: the TALL mask m_t = 1{|tau_t| > lambda_t |tau_mt - tau_t|}. Elements that are important to fewer
than k models are selfish, or catastrophic, and keep the base model's value: the consensus mask m = 1{sum(m_t) >= k},
W = W0 + lambda (m tau_mt). As in the authors' code, the comparison is strict, and the merged task vector is the sum
before it is multiplied by lambda.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.kernels.consensus import mark_consensus
from dovetail.engine.kernels.election import add_scaled, scale_change
from dovetail.engine.kernels.statistics import mark_nonzero
from dovetail.engine.methods.decoding import STRETCH, Floats, Marks, Values, stretches
from dovetail.engine.methods.masked import StretchSum
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.methods.parameters import LARGEST, merge_number, model_number, model_weights, task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, Problem, State
from dovetail.engine.methods.task_vector_parameters import LAMBDA
from dovetail.engine.text import counted

_ONE = np.float32(1.0)


@dataclass(frozen=True, slots=True)
class Consensus(OnePass):
    """Program of a tensor: W0 + factor * sum(w tau) where at least `least` models call the element important."""

    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    weights: tuple[float, ...]
    """The models' weights."""
    scales: tuple[float, ...]
    """For each model, what the rest of the merged task vector is multiplied by before the comparison (lambda_t)."""
    least: int
    """How many models must call an element important (k)."""
    factor: float
    """What the sum is multiplied by (lambda)."""

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of the sources of a stretch, two sums, votes, and masks of the stretch and of every model."""
        size = min(elements, STRETCH)
        return Values.scratch_bytes(len(self.codes), size) + size * (4 + 2 + 2 + len(self.weights) + 8)

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, stretch by stretch."""
        size = min(STRETCH, chunk.stop - chunk.start)
        values = Values(chunk, self.codes, size)
        merged = _Sum(self, values.nonfinite, size)
        weights, scales = np.array(self.weights, np.float32), np.array(self.scales, np.float32)
        total, agreed, mask = np.empty(size, np.float32), np.empty(size, np.uint8), np.empty(size, np.uint8)
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            here = slice(stop - start)
            base, taus = values.load_task_vectors(start, stop, (start, stop))
            mark_consensus(taus, weights, scales, self.least, total[here], agreed[here])
            merged.begin(stop - start)
            for model, tau in enumerate(taus):
                mark_nonzero(tau, mask[here])
                mask[here] &= agreed[here]
                merged.add(model, tau, mask[here])
            merged.finish(base, out, self.out_code, start - chunk.start)
        return merged.statistics


class _Sum(StretchSum):
    """The weighted sum of what is kept, times the factor."""

    def __init__(self, program: Consensus, nonfinite: NDArray[np.int64], size: int) -> None:
        super().__init__(nonfinite, len(program.weights), size)
        self._weights, self._factor = np.array(program.weights, np.float32), np.float32(program.factor)

    def _add(self, model: int, tau: Floats, mask: Marks) -> None:
        add_scaled(tau, mask, _ONE, self._weights[model], self._delta[: self._size])

    def _resolve(self, delta: Floats) -> None:
        scale_change(delta, _ONE, self._factor)


def make_program(problem: Problem) -> Consensus:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        A parameter cannot be used, or more models should agree than there are.

    """
    count, least = len(problem.model_codes), int(problem.parameters["k"])
    if not 0 <= least <= count:
        raise RecipeError(
            f"k is {least}, and {counted(count, 'model')} can agree on tensor {problem.name!r}",
            f"a whole number from 0 to {count}",
            "correct 'k' in the recipe; a filter gives tensors that few models have a k of their own",
        )
    return Consensus(
        codes=task_vector_codes(problem),
        out_code=problem.out_code,
        weights=model_weights(problem),
        scales=tuple(model_number(problem, model, "tall_mask_lambda", 0.0, LARGEST) for model in range(count)),
        least=least,
        factor=merge_number(problem, "lambda"),
    )


CONSENSUS_TA = Method(
    name="consensus_ta",
    summary="Add up the changes that matter to several models, and drop those that matter to one or to none: "
    "use it to combine many fine-tunes for different tasks.",
    paper="https://arxiv.org/abs/2405.07813",
    base="origin",
    parameters=(
        Parameter("weight", "float", 1.0, "factor of the model's change in the merged one", "model"),
        Parameter(
            "tall_mask_lambda",
            "float",
            0.4,
            "how far a change must stand out from the rest of the merged change to matter to the model; "
            "the authors try 0.2 to 0.6 for each model",
            "model",
        ),
        Parameter("k", "int", 2, "to how many models a change must matter to be kept; 0 keeps all"),
        LAMBDA,
    ),
    program=make_program,
    by_name=False,
)
"""The row of the table of methods."""
