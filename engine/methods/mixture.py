"""Linear combinations of whole tensors whose coefficients follow from the vectors' dot products.

One reduce pass computes the Gram matrix, block by block so that it does not depend on the chunks; the apply pass is the
fused weighted sum of `linear` or of `task_arithmetic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.kernels.sums import gram
from dovetail.engine.methods.decoding import PIECE, Range, Values, blocks
from dovetail.engine.methods.geometry import Geometry
from dovetail.engine.methods.linear import Linear
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics
from dovetail.engine.methods.task_arithmetic import TaskArithmetic


@dataclass(frozen=True, slots=True)
class Mixture:
    """A combination of the sources, the base model first if there is one."""

    name: str
    """Name of the tensor, for messages."""
    length: int
    """Elements of the tensor."""
    has_base: bool
    """Whether there is a base model."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor, if any, and of the models'."""
    out_code: int
    """Dtype code of the output."""
    geometry: Geometry
    """Gives the coefficients."""
    relative: bool
    """Whether dot products are of task vectors, not of the weights."""
    adds: bool
    """Whether the combination is of task vectors and added to the base, not one of the weights."""

    @property
    def reduce_passes(self) -> int:
        """One, for the Gram matrix."""
        return 1

    @property
    def partial_bytes(self) -> int:
        """A Gram matrix for each block of a chunk."""
        return 64 * 8 * len(self.codes) ** 2

    def window(self, start: int, stop: int) -> Range:
        """Widen a chunk to the end of the last block that begins in it."""
        return start, min(self.length, -(-stop // PIECE) * PIECE)

    def scratch_bytes(self, elements: int) -> int:
        """Working memory: the decoded sources of a block."""
        return Values.scratch_bytes(len(self.codes), min(elements, PIECE)) + (1 << 17)

    def reduce(self, step: int, chunk: Chunk, state: Any) -> NDArray[np.float64]:
        """Compute the dot products of every block that begins in a chunk: float64[blocks, V, V]."""
        values = Values(chunk, self.codes, min(PIECE, self.length))
        found = []
        for start, stop in blocks(chunk, self.length, PIECE):
            if self.relative:
                _, vectors = values.load_task_vectors(start, stop, (start, stop))
            else:
                vectors = values.load(start, stop, (start, stop))
            products = np.empty((len(vectors), len(vectors)))
            gram(vectors, stop - start, products)
            found.append(products)
        count = len(self.codes) - self.relative
        return np.array(found).reshape(-1, count, count)

    def combine(self, step: int, partials: Sequence[NDArray[np.float64]], state: Any) -> tuple[float, ...]:
        """Add up the blocks, exactly and rounded once, and find the coefficients.

        Raises
        ------
        RecipeError
            The vectors have no mean direction.

        """
        sums = np.concatenate(partials)
        count = sums.shape[1]
        whole = np.array([[_sum(sums[:, i, j]) for j in range(count)] for i in range(count)])
        with np.errstate(all="ignore"):
            found = self.geometry.coefficients(whole)
        if np.isnan(found).any() and np.isfinite(whole).all():
            raise RecipeError(
                f"the result for tensor {self.name!r} is undefined: the models' weighted directions cancel out",
                "a weighted mean that has a direction",
                "use other weights, or another method",
            )
        return tuple(float(value) for value in found)

    def apply(self, chunk: Chunk, state: tuple[float, ...], out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        if self.adds:
            return TaskArithmetic(self.codes, self.out_code, state, 1.0, 1.0).apply(chunk, None, out)
        return Linear(self.codes, self.out_code, state, 1.0, with_base=self.has_base).apply(chunk, None, out)


def _sum(values: NDArray[np.float64]) -> float:
    """Sum without intermediate rounding, so that the order cannot matter; NaN or infinity where one is among them."""
    return fsum(values) if np.isfinite(values).all() else float("nan")
