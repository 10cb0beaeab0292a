"""Isotropic merging in the common subspace: the sum of task vectors, with a flat spectrum.

https://arxiv.org/abs/2502.04959, Iso-C: of the sum M = U S V', every singular value is replaced by their mean. U V' is
M (M'M)^(-1/2) for a tall matrix and (M M')^(-1/2) M for a wide one, so that the Gram matrix of the smaller side is all
that must be decomposed. Directions in which the sum is zero stay so. In the authors' code they get the mean too, in
directions that the library makes up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.blas import one_thread
from dovetail.engine.methods.decoding import STRETCH, TaskVectors, stretches
from dovetail.engine.methods.gram import EIGEN_MATRICES, ColumnProducts, Gathered, spectrum_of
from dovetail.engine.methods.low_rank import Matrix
from dovetail.engine.methods.matrices import DECOMPOSE, MatrixProgram, averaged, matrix_shape
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.methods.parameters import merge_number, model_weights, task_vector_codes
from dovetail.engine.methods.program import Chunk, Problem
from dovetail.engine.methods.task_arithmetic import TaskArithmetic
from dovetail.engine.methods.task_vector_parameters import LAMBDA


@dataclass(frozen=True, slots=True)
class Found:
    """What the reduce pass has found."""

    flattening: Matrix
    """lambda * mean(S) * G^(-1/2), of the smaller side: what the sum is multiplied by."""
    total: NDArray[np.floating] | None
    """The whole sum, where it is wide."""


@dataclass(frozen=True, slots=True)
class Isotropic(MatrixProgram):
    """Program of a matrix: W0 + lambda * mean(S) * U V', of the sum of weighted task vectors U S V'."""

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: one, for the Gram matrix."""
        return 1

    def partial_bytes(self, elements: int) -> int:
        """Bytes of a chunk's sum in float64."""
        return 8 * elements

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """The Gram matrix with its eigenvectors and, of a wide matrix, the sum."""
        held = ColumnProducts.held_bytes(self.rows, self.columns)
        if not self.tall:
            held = Gathered.held_bytes(self.rows, self.columns, 8)
        return held + 8 * EIGEN_MATRICES * self.side**2

    def reduce(self, step: int, chunk: Chunk, state: Any) -> NDArray[np.float64]:
        """Add up a chunk's task vectors by weight."""
        vectors = TaskVectors(chunk, self.codes, min(STRETCH, chunk.stop - chunk.start))
        total = np.empty(chunk.stop - chunk.start)
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            vectors.begin(start, stop, (start, stop))
            total[start - chunk.start : stop - chunk.start] = self._sum(vectors, start, stop)
        return total

    def _sum(self, vectors: TaskVectors, start: int, stop: int) -> NDArray[np.float64]:
        """Sum task vectors by weight, in the order of the models."""
        total = np.zeros(stop - start)
        with np.errstate(all="ignore"):
            for weight, tau in zip(self.weights, self.taus(vectors, start, stop), strict=True):
                total += np.multiply(tau, weight, dtype=np.float64)
        return total

    def begin(self, step: int, state: Any) -> ColumnProducts | Gathered:
        """Begin the Gram matrix, or to gather the sum."""
        return ColumnProducts(self.rows, self.columns) if self.tall else Gathered(self.rows, self.columns, np.float64)

    def fold(
        self, step: int, accumulator: ColumnProducts | Gathered, partial: NDArray[np.float64]
    ) -> ColumnProducts | Gathered:
        """Take a chunk's sum."""
        with one_thread():
            accumulator.add(partial)
        return accumulator

    def finish(self, step: int, accumulator: ColumnProducts | Gathered, state: Any) -> Found | None:
        """Find what the sum must be multiplied by; None if the sum is not finite."""
        with one_thread():
            gram = accumulator.take() if isinstance(accumulator, ColumnProducts) else accumulator.gram()
            if not np.isfinite(gram).all():
                return None
            found = spectrum_of(gram)
            del gram
            mean = self.factor * found.values.sum() / self.side
            flattening = (found.vectors * (mean / found.values)) @ found.vectors.T
        return Found(flattening, accumulator.matrix if isinstance(accumulator, Gathered) else None)

    def change(self, vectors: TaskVectors, first: int, last: int, state: Found) -> Matrix:
        """Compute the change of a block of rows."""
        if state.total is None:
            return np.asarray(self._sum(vectors, first, last).reshape(-1, self.columns) @ state.flattening)
        rows = slice(first // self.columns, last // self.columns)
        return np.asarray(state.flattening[rows] @ state.total)


def make_program(problem: Problem) -> Isotropic | TaskArithmetic:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        A weight or lambda cannot be used.

    """
    shape = matrix_shape(problem, 1)
    if shape is None:
        return averaged(problem)
    factor = merge_number(problem, "lambda")
    return Isotropic(task_vector_codes(problem), problem.out_code, *shape, model_weights(problem), factor)


ISO_C = Method(
    name="iso_c",
    summary="Add up all changes, and make the sum of every matrix equally strong in all its directions: "
    "use it to combine many fine-tunes without letting what they share drown the rest.",
    paper="https://arxiv.org/abs/2502.04959",
    base="origin",
    parameters=(
        Parameter("weight", "float", 1.0, "factor of the model's change in the sum", "model"),
        LAMBDA,
        DECOMPOSE,
    ),
    program=make_program,
    by_name=False,
)
"""The row of the table of methods."""
