"""Linear combinations of whole tensors, with coefficients that follow from the dot products of the tensors.

One reduce pass computes the Gram matrix, block by block, so that it does not depend on the chunks. Coefficients and
sums are float64; the result is rounded to float32 once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.kernels.convert import encode
from dovetail.engine.kernels.mixing import block_grams, mix_sources, tile_bytes
from dovetail.engine.kernels.statistics import count_nonfinite
from dovetail.engine.kernels.task_vectors import subtract
from dovetail.engine.methods.decoding import (
    STRETCH,
    ElementRange,
    Floats,
    Values,
    block_count,
    blocks,
    elements,
    plain_statistics,
)
from dovetail.engine.methods.geometry import Geometry
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, EveryChunk


@dataclass(frozen=True, slots=True)
class Combination:
    """Which tensors are combined, how, and into which dtype."""

    has_base: bool
    """Whether there is a base model."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor, if any, and of the models'."""
    out_code: int
    """Dtype code of the output."""
    geometry: Geometry
    """Computes the coefficients."""
    relative: bool
    """Whether dot products are those of task vectors, not of weights."""
    adds: bool
    """Whether task vectors are combined and added to the base model; if not, weights are combined."""

    @property
    def models(self) -> int:
        """Number of models, without the base model."""
        return len(self.codes) - self.has_base

    @property
    def vectors(self) -> int:
        """Number of vectors that dot products are computed of."""
        return len(self.codes) - self.relative

    def scratch_bytes(self, size: int) -> int:
        """Compute the bytes for stretches of `size` elements: sources, task vectors, the result."""
        return 2 * Values.scratch_bytes(len(self.codes), size) + 4 * size

    def stored(self, chunk: Chunk, low: int, high: int) -> tuple[Bytes, ...]:
        """Cut the stored bytes of elements ``low:high`` out of every source."""
        raws = chunk.models if chunk.base is None else (chunk.base, *chunk.models)
        return tuple(elements(chunk, raw, code, low, high) for raw, code in zip(raws, self.codes, strict=True))

    def split(self, values: Floats) -> tuple[Floats, Floats]:
        """Make, of decoded sources, the vectors for the dot products, and the vectors to combine."""
        if not self.relative:
            return values, values
        taus = values[1:].copy()
        for tau in taus:
            subtract(tau, values[0])
        return taus, taus if self.adds else values

    def store(self, mixed: Floats, out: Bytes, start: int) -> int:
        """Store combined elements in `out`, from element `start` on; return how many are not finite."""
        return count_nonfinite(mixed) + int(encode(mixed, self.out_code, start, start + mixed.size, out))


@dataclass(frozen=True, slots=True)
class Mixture(EveryChunk):
    """Program of a combination with one set of coefficients for the whole tensor."""

    name: str
    """Name of the tensor, for messages."""
    length: int
    """Elements of the tensor."""
    sources: Combination
    """What is combined."""

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: one, for the Gram matrix."""
        return 1

    def partial_bytes(self, elements: int) -> int:
        """Bytes of a Gram matrix for each block that begins in a chunk."""
        return 8 * self.sources.vectors**2 * block_count(elements, STRETCH)

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """The Gram matrices of all blocks, kept one by one and joined."""
        return 2 * chunks * self.partial_bytes(elements)

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to the end of the last block that begins in it."""
        return start, min(self.length, -(-stop // STRETCH) * STRETCH)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of a tile of every source and of the result, and of the lanes of the dot products."""
        return tile_bytes(len(self.sources.codes))

    def reduce(self, step: int, chunk: Chunk, state: Any) -> NDArray[np.float64]:
        """Compute the dot products of every block that begins in a chunk: float64[blocks, V, V]."""
        count, first = self.sources.vectors, chunk.window_start
        parts = self.sources.stored(chunk, first, self.window(chunk.start, chunk.stop)[1])
        bounds = np.array(list(blocks(chunk, self.length, STRETCH)), np.int64).reshape(-1, 2) - first
        found = np.empty((len(bounds), count, count))
        base, vectors = parted(parts, self.sources.relative)
        block_grams(base, vectors, np.array(self.sources.codes, np.int64), bounds, found)
        return found

    def begin(self, step: int, state: Any) -> list[NDArray[np.float64]]:
        """Begin with no blocks."""
        return []

    def fold(
        self, step: int, accumulator: list[NDArray[np.float64]], partial: NDArray[np.float64]
    ) -> list[NDArray[np.float64]]:
        """Keep a chunk's blocks: their sum is rounded only once, when all are there."""
        accumulator.append(partial)
        return accumulator

    def finish(self, step: int, accumulator: list[NDArray[np.float64]], state: Any) -> tuple[float, ...]:
        """Add up the blocks, exactly and rounded once, and find the coefficients.

        Raises
        ------
        RecipeError
            The vectors have no mean direction.

        """
        sums = np.concatenate(accumulator)
        count = sums.shape[1]
        whole = np.array([[_sum(sums[:, i, j]) for j in range(count)] for i in range(count)])
        with np.errstate(all="ignore"):
            found = self.sources.geometry.coefficients(whole)
        if np.isnan(found).any() and np.isfinite(whole).all():
            raise RecipeError(
                f"the result for tensor {self.name!r} is undefined: the models' weighted directions cancel out",
                "a weighted mean that has a direction",
                "use other weights, or another method",
            )
        return tuple(float(value) for value in found)

    def apply(self, chunk: Chunk, state: tuple[float, ...], out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        nonfinite = np.zeros(len(self.sources.codes), np.int64)
        base, vectors = parted(self.sources.stored(chunk, chunk.start, chunk.stop), self.sources.adds)
        overflowed = mix_sources(
            base,
            vectors,
            np.array(self.sources.codes, np.int64),
            np.array(state),
            out,
            self.sources.out_code,
            nonfinite,
        )
        return plain_statistics(self.sources.models, overflowed, nonfinite)


def parted(stored: tuple[Bytes, ...], has_base: bool) -> tuple[tuple[Bytes, ...], tuple[Bytes, ...]]:
    """Part the base model's bytes, as a tuple, from those of the models."""
    return (stored[:1], stored[1:]) if has_base else ((), stored)


def _sum(values: NDArray[np.float64]) -> float:
    """Sum without intermediate rounding, so that the order does not matter; NaN if a value is not finite."""
    return fsum(values) if np.isfinite(values).all() else float("nan")
