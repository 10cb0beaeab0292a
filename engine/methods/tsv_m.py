"""Task singular vectors, merged: the strongest directions of every task, made orthogonal to those of the others.

https://arxiv.org/abs/2412.00081, TSV-Merge. Of each of K task vectors, a matrix, the min(rows, columns) / K strongest
singular directions are kept. The left singular vectors of all tasks, side by side, are replaced by the nearest
orthonormal ones, the right ones too, and the result is their product with the singular values between.

One reduce pass for each model finds the singular vectors of its smaller side. Those of a tall matrix's larger side are
tau v / s, as long as the matrix, and never held: one more pass finds their dot products, which is all that making them
orthonormal takes. Where vectors are not independent (two models may be the same) they are replaced by the nearest ones
on the space that they span. In the authors' code, such directions are rounding errors, and so are those of singular
values of zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.blas import one_thread
from dovetail.engine.methods.decoding import STRETCH, Floats, TaskVectors, blocks, stretches
from dovetail.engine.methods.gram import EIGEN_MATRICES, ColumnProducts, Gathered, inverse_root, spectrum_of
from dovetail.engine.methods.low_rank import Matrix
from dovetail.engine.methods.matrices import DECOMPOSE, MatrixProgram, averaged, matrix_shape
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.methods.parameters import merge_number, model_weights, task_vector_codes
from dovetail.engine.methods.program import Chunk, Problem
from dovetail.engine.methods.task_arithmetic import TaskArithmetic
from dovetail.engine.methods.task_vector_parameters import LAMBDA

Parts = tuple[Matrix, ...]
"""One matrix for each model."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the passes so far have found; the directions of each model are those that it keeps."""

    inner: Parts = ()
    """Singular vectors of the smaller side, as columns. Those of a tall matrix are divided by the singular values, so
    that a task vector's product with them is its left singular vectors."""
    values: tuple[NDArray[np.float64], ...] = ()
    """Singular values of each model's task vector."""
    outer: Parts = ()
    """Of a wide matrix, right singular vectors as rows. Of a tall one, from the end of the models' passes on, the right
    singular vectors of all models, orthonormal, as rows; after the last pass, what the left singular vectors are
    multiplied by to give the change."""
    left: Parts = ()
    """Of a wide matrix, after the last pass: what `outer` is multiplied by to give the change."""


@dataclass(frozen=True, slots=True)
class TaskSingularVectors(MatrixProgram):
    """Program of a matrix: W0 + lambda * U S V', of orthonormal U and V."""

    @property
    def models(self) -> int:
        """Number of models."""
        return len(self.weights)

    @property
    def rank(self) -> int:
        """Directions that each model keeps."""
        return self.side // self.models

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: one for each model and, of a tall matrix, one for all."""
        return self.models + self.tall

    def partial_bytes(self, elements: int) -> int:
        """Bytes of a chunk's task vector or, in the pass for all models, of their left singular vectors."""
        width = self.rank * self.models if self.tall else 0
        return max(4 * elements, self.begun_bytes(elements, width))

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """A Gram matrix with its eigenvectors, what is kept of all models and, of a wide matrix, a task vector."""
        kept = self.rank * self.models
        if self.tall:
            held = ColumnProducts.held_bytes(self.rows, self.columns)
        else:
            held = Gathered.held_bytes(self.rows, self.columns, 4) + 8 * kept * self.columns
        return held + 8 * (EIGEN_MATRICES + 2) * self.side**2

    def reduce(self, step: int, chunk: Chunk, state: Found | None) -> NDArray[np.floating]:
        """Give a model's task vector in a chunk or, in the last pass of a tall matrix, left singular vectors."""
        if step == self.models:
            return self._left_vectors(chunk, state)
        size = min(STRETCH, chunk.stop - chunk.start)
        vectors, found = TaskVectors(chunk, self.codes, size), np.empty(chunk.stop - chunk.start, np.float32)
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            vectors.begin(start, stop, (start, stop))
            found[start - chunk.start : stop - chunk.start] = vectors.tau(step, start, stop)
        return found

    def _left_vectors(self, chunk: Chunk, state: Found | None) -> NDArray[np.float64]:
        """Compute the left singular vectors of all models in the blocks that begin in a chunk, row by row."""
        if state is None:
            return np.empty(0)
        width = sum(part.shape[1] for part in state.inner)
        begun = list(blocks(chunk, self.length, self.block))
        rows = sum(last - first for first, last in begun) // self.columns
        vectors, found, row = TaskVectors(chunk, self.codes, self.block), np.empty((rows, width)), 0
        with one_thread(), np.errstate(all="ignore"):
            for first, last in begun:
                vectors.begin(first, last, (first, first))
                count, column = (last - first) // self.columns, 0
                for tau, part in zip(self.taus(vectors, first, last), state.inner, strict=True):
                    found[row : row + count, column : column + part.shape[1]] = self._rows(tau) @ part
                    column += part.shape[1]
                row += count
        return found.reshape(-1)

    def _rows(self, tau: Floats) -> Matrix:
        """Give rows of a task vector in float64."""
        return tau.reshape(-1, self.columns).astype(np.float64)

    def begin(self, step: int, state: Found | None) -> ColumnProducts | Gathered:
        """Begin a Gram matrix, or to gather a task vector."""
        if step == self.models:
            return ColumnProducts(self.rows, 0 if state is None else sum(part.shape[1] for part in state.inner))
        return ColumnProducts(self.rows, self.columns) if self.tall else Gathered(self.rows, self.columns, np.float32)

    def fold(
        self, step: int, accumulator: ColumnProducts | Gathered, partial: NDArray[np.floating]
    ) -> ColumnProducts | Gathered:
        """Take what a chunk gives."""
        with one_thread():
            accumulator.add(partial)
        return accumulator

    def finish(self, step: int, accumulator: ColumnProducts | Gathered, state: Found | None) -> Found | None:
        """Keep a model's directions, and make those of all models orthonormal; None if a task vector is not finite."""
        if step and state is None:
            return None
        state = state or Found()
        with one_thread(), np.errstate(all="ignore"):
            gram = accumulator.take() if isinstance(accumulator, ColumnProducts) else accumulator.gram()
            if not np.isfinite(gram).all():
                return None
            if step == self.models:
                return self._finish_tall(state, gram)
            state = self._with_model(step, state, gram, accumulator)
            if step < self.models - 1:
                return state
            return self._orthonormal_right(state) if self.tall else self._finish_wide(state)

    def _with_model(self, model: int, state: Found, gram: Matrix, accumulator: ColumnProducts | Gathered) -> Found:
        """Add what is kept of a model: the strongest directions, and none if its weight is zero."""
        found = spectrum_of(gram)
        count = min(self.rank, len(found.values)) if self.weights[model] else 0
        values, inner = found.values[:count].copy(), np.ascontiguousarray(found.vectors[:, :count])
        del found
        if isinstance(accumulator, Gathered):
            outer: Parts = (*state.outer, accumulator.multiplied((inner / values).T))
        else:
            outer, inner = (), inner / values
        return Found((*state.inner, inner), (*state.values, values), outer)

    def _orthonormal_right(self, state: Found) -> Found:
        """Make the right singular vectors of a tall matrix orthonormal, once those of all models are there."""
        right = np.hstack([part * values for part, values in zip(state.inner, state.values, strict=True)])
        return Found(state.inner, state.values, ((right @ inverse_root(right.T @ right)).T,))

    def _finish_tall(self, state: Found, gram: Matrix) -> Found:
        """Find, from the dot products of the left singular vectors, what each must be multiplied by."""
        (right,) = state.outer
        change = (inverse_root(gram) * self._strengths(state)) @ right
        return Found(state.inner, state.values, self._parted(state, change, axis=0))

    def _finish_wide(self, state: Found) -> Found:
        """Find what the right singular vectors of a wide matrix must be multiplied by."""
        left = np.hstack(state.inner)
        left = left @ inverse_root(left.T @ left)
        gram = np.block([[one @ other.T for other in state.outer] for one in state.outer])
        change = (left * self._strengths(state)) @ inverse_root(gram)
        return Found(outer=state.outer, left=self._parted(state, change, axis=1))

    def _strengths(self, state: Found) -> NDArray[np.float64]:
        """Give the singular values of all models' directions, times weights and lambda."""
        weighted = (weight * values for weight, values in zip(self.weights, state.values, strict=True))
        return self.factor * np.concatenate(list(weighted))

    def _parted(self, state: Found, whole: Matrix, axis: int) -> Parts:
        """Part a matrix by models, along an axis that has one place for each direction."""
        edges = np.cumsum([len(values) for values in state.values])[:-1]
        return tuple(np.ascontiguousarray(part) for part in np.split(whole, edges, axis))

    def change(self, vectors: TaskVectors, first: int, last: int, state: Found) -> Matrix:
        """Compute the change of a block of rows."""
        total = np.zeros(((last - first) // self.columns, self.columns))
        if self.tall:
            for tau, inner, outer in zip(self.taus(vectors, first, last), state.inner, state.outer, strict=True):
                total += (self._rows(tau) @ inner) @ outer
            return total
        rows = slice(first // self.columns, last // self.columns)
        for left, outer in zip(state.left, state.outer, strict=True):
            total += left[rows] @ outer
        return total


def make_program(problem: Problem) -> TaskSingularVectors | TaskArithmetic:
    """Make the program of one tensor.

    A matrix that is narrower than there are models has no direction for each, and is averaged.

    Raises
    ------
    RecipeError
        A weight or lambda cannot be used.

    """
    shape = matrix_shape(problem, len(problem.model_codes))
    if shape is None:
        return averaged(problem)
    factor = merge_number(problem, "lambda")
    return TaskSingularVectors(task_vector_codes(problem), problem.out_code, *shape, model_weights(problem), factor)


TSV_M = Method(
    name="tsv_m",
    summary="Keep the strongest directions of every matrix's change, and turn those of all models orthogonal to each "
    "other: use it to combine fine-tunes for different tasks, with little to tune.",
    paper="https://arxiv.org/abs/2412.00081",
    base="origin",
    parameters=(
        Parameter("weight", "float", 1.0, "factor of the model's change", "model"),
        LAMBDA,
        DECOMPOSE,
    ),
    program=make_program,
    by_name=False,
)
"""The row of the table of methods."""
