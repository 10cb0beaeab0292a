"""Programs of matrices as matrices: the change is computed in blocks of whole rows, by linear algebra in float64.

A block is counted from the first row, and always computed whole, because what a linear algebra library gives for a row
may depend in its last bits on how many rows it is given at once. A chunk that has a part of a block computes all of it
and keeps its part.

What the reduce passes need of a matrix depends on its shape alone. Of a tall one, with at least as many rows as
columns, it is the Gram matrix of its columns, which grows with the chunks that come (`gram.ColumnProducts`). Of a wide
one it is the matrix itself (`gram.Gathered`): a row of the result needs all rows, and chunks are rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import encode
from dovetail.engine.kernels.statistics import count_nonfinite, count_pairs, mark_nonzero
from dovetail.engine.kernels.sums import sum_squares
from dovetail.engine.methods.blas import one_thread
from dovetail.engine.methods.decoding import (
    STRETCH,
    ElementRange,
    Floats,
    TaskVectors,
    block_count,
    plain_statistics,
    stretches,
)
from dovetail.engine.methods.low_rank import Matrix
from dovetail.engine.methods.method import Parameter
from dovetail.engine.methods.parameters import merge_number, model_weights, task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, EveryChunk, Problem
from dovetail.engine.methods.task_arithmetic import TaskArithmetic

BLOCK = 1 << 18
"""Most elements of a block, unless a row has more."""

LIBRARY_BYTES = 32 << 20
"""Allowance for the buffers that the linear algebra library keeps for a thread."""

DECOMPOSE = Parameter(
    "decompose",
    "choice",
    "matrices",
    "which tensors are decomposed: those of two dimensions; all of two or more, as rows along the first; or none. "
    "Of the others, task vectors are averaged",
    choices=("matrices", "all", "none"),
)


def matrix_shape(problem: Problem, least: int) -> tuple[int, int] | None:
    """Give the rows and columns of a tensor that is to be decomposed; None if its task vectors are to be averaged.

    Parameters
    ----------
    problem
        The tensor, with the parameter `decompose`.
    least
        What its smaller side must be at least.

    """
    shape, wanted = problem.shape, problem.parameters["decompose"]
    if wanted == "none" or len(shape) < 2 or (wanted == "matrices" and len(shape) > 2):
        return None
    found = shape[0], prod(shape[1:])
    return found if min(found) >= max(1, least) else None


def averaged(problem: Problem) -> TaskArithmetic:
    """Make the program of a tensor that is not decomposed: W0 + lambda * mean(w tau).

    Raises
    ------
    RecipeError
        A weight or lambda cannot be used.

    """
    weights = model_weights(problem)
    factor = merge_number(problem, "lambda")
    return TaskArithmetic(task_vector_codes(problem), problem.out_code, weights, float(len(weights)), factor)


@dataclass(frozen=True, slots=True)
class MatrixProgram(EveryChunk):
    """What programs of matrices have in common. Subclasses have the reduce passes, and compute the change of a block.

    Their state is None where the inputs are not finite; the whole change is NaN then.
    """

    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    rows: int
    """Rows of the matrix."""
    columns: int
    """Columns of the matrix."""
    weights: tuple[float, ...]
    """The models' weights."""
    factor: float
    """What the change is multiplied by (lambda)."""

    @property
    def tall(self) -> bool:
        """Whether the columns are the smaller side."""
        return self.rows >= self.columns

    @property
    def side(self) -> int:
        """Length of the smaller side."""
        return min(self.rows, self.columns)

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.rows * self.columns

    @property
    def block(self) -> int:
        """Elements of a block of rows."""
        return max(1, min(self.rows, BLOCK // self.columns)) * self.columns

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to whole blocks."""
        return start // self.block * self.block, min(self.length, -(-stop // self.block) * self.block)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of a block's sources, of it in float64, of its products and its result, of masks, and the library's."""
        return TaskVectors.scratch_bytes(self.block) + 56 * self.block + len(self.weights) * STRETCH + LIBRARY_BYTES

    def begun_bytes(self, elements: int, width: int) -> int:
        """Compute the bytes in float64 of `width` numbers for each row of the blocks that begin in a chunk."""
        return 8 * width * block_count(elements, self.block) * self.block // self.columns

    def taus(self, vectors: TaskVectors, first: int, last: int) -> Iterator[Floats]:
        """Decode elements ``first:last``, which have been begun, of every model; each is valid until the next."""
        for model in range(len(self.weights)):
            yield vectors.tau(model, first, last)

    def apply(self, chunk: Chunk, state: Any, out: Bytes) -> ChunkStatistics:
        """Merge a chunk, block by block."""
        vectors = TaskVectors(chunk, self.codes, self.block)
        statistics = plain_statistics(len(self.weights), 0, vectors.nonfinite)
        with one_thread(), np.errstate(all="ignore"):
            for first in range(chunk.start // self.block * self.block, chunk.stop, self.block):
                last = min(first + self.block, self.length)
                start, stop = max(first, chunk.start), min(last, chunk.stop)
                vectors.begin(first, last, (first, first))
                whole = np.full(last - first, np.nan) if state is None else self.change(vectors, first, last, state)
                change = whole.reshape(-1)[start - first : stop - first]
                statistics.merged_square += float(change @ change)
                statistics.overflowed += self._store(change, vectors.base(start, stop), out, start - chunk.start)
                self._count(vectors, start, stop, statistics)
        statistics.kept_square = statistics.delta_square.copy()
        return statistics

    def change(self, vectors: TaskVectors, first: int, last: int, state: Any) -> Matrix:
        """Compute the change of a block.

        Parameters
        ----------
        vectors
            The task vectors; elements ``first:last`` have been begun.
        first, last
            The block.
        state
            What the reduce passes have found; not None.

        Returns
        -------
        float64[rows, columns]
            The change.

        """
        raise NotImplementedError

    def _count(self, vectors: TaskVectors, first: int, last: int, statistics: ChunkStatistics) -> None:
        """Count what models change in elements ``first:last``, and what is not finite: all changes are kept."""
        masks = np.empty((len(self.weights), min(STRETCH, last - first)), np.uint8)
        for start, stop in stretches(first, last, STRETCH):
            vectors.begin(start, stop, (start, stop))
            for model, tau in enumerate(self.taus(vectors, start, stop)):
                mark_nonzero(tau, masks[model, : stop - start])
                statistics.delta_square[model] += sum_squares(tau)
            count_pairs(masks, stop - start, statistics.kept)

    def _store(self, change: NDArray[np.float64], base: Floats, out: Bytes, place: int) -> int:
        """Store the base model's values plus a change, rounded once; return how many of the results are not finite.

        Where nothing changes, the base model's values are kept, so that a -0.0 keeps its sign.
        """
        merged = (base + change).astype(np.float32)
        np.copyto(merged, base, where=change == 0)
        return count_nonfinite(merged) + int(encode(merged, self.out_code, place, place + merged.size, out))
