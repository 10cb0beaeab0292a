"""Whether models have a tensor that is not merged, such as one of integers, in common with the base model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, EveryChunk

_STRETCH = 1 << 20
"""Bytes that are compared at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Differing:
    """Which models have other bytes than the base model."""

    models: NDArray[np.bool_]
    """One for each model."""
    nonfinite: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Empty: what is not merged may hold anything."""
    open: tuple[()] = ()
    """Empty: one sweep settles everything."""


@dataclass(frozen=True, slots=True)
class Sameness(EveryChunk):
    """Program of one tensor: a reduce pass alone."""

    models: int
    """Number of models."""
    reduce_passes = 1

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Need only the chunk itself."""
        return start, stop

    def partial_bytes(self, elements: int) -> int:
        """Bytes of a mark for each model, with an allowance for objects."""
        return 1024 + self.models

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """Bytes of the same."""
        return 1024 + self.models

    def scratch_bytes(self, elements: int) -> int:
        """Bytes that comparing makes."""
        return _STRETCH

    def reduce(self, step: int, chunk: Chunk, state: None) -> Differing:
        """Compare a chunk's bytes."""
        base = chunk.base
        assert base is not None
        return Differing(
            np.array(
                [
                    any(
                        bool(np.any(base[at : at + _STRETCH] != raw[at : at + _STRETCH]))
                        for at in range(0, base.size, _STRETCH)
                    )
                    for raw in chunk.models
                ],
                np.bool_,
            )
        )

    def begin(self, step: int, state: None) -> Differing:
        """Begin with none."""
        return Differing(np.zeros(self.models, np.bool_))

    def fold(self, step: int, accumulator: Differing, partial: Differing) -> Differing:
        """Add the next chunk's."""
        return Differing(accumulator.models | partial.models)

    def finish(self, step: int, accumulator: Differing, state: None) -> Differing:
        """Give what all chunks say."""
        return accumulator

    def apply(self, chunk: Chunk, state: Differing, out: Bytes) -> ChunkStatistics:
        """Never called: nothing is written."""
        raise AssertionError("an analysis has no output")
