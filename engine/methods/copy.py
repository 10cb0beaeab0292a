"""Copying a tensor unchanged: integer and boolean tensors, which no method merges, and what keeps its dtype when a
checkpoint is converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, State


@dataclass(frozen=True, slots=True)
class Copy:
    """Take the first source's bytes; count where the others differ from them."""

    compared: bool = True
    """Whether there are others."""
    reduce_passes: int = 0
    partial_bytes: int = 0

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Need just the chunk itself."""
        return start, stop

    def scratch_bytes(self, elements: int) -> int:
        """Compare in place: one byte of result a compared byte, of at most 8 an element."""
        return 8 * elements if self.compared else 0

    def reduce(self, step: int, chunk: Chunk, state: State) -> Any:
        """Never called: there are no reduce passes."""
        raise AssertionError("a copy has no reduce passes")

    def combine(self, step: int, partials: Sequence[Any], state: State) -> State:
        """Never called: there are no reduce passes."""
        raise AssertionError("a copy has no reduce passes")

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Copy, and count the bytes that differ in each model."""
        sources = chunk.models if chunk.base is None else (chunk.base, *chunk.models)
        out[:] = sources[0]
        count = len(chunk.models)
        statistics = ChunkStatistics(
            kept=np.zeros((count, count), np.int64),
            delta_square=np.zeros(count),
            kept_square=np.zeros(count),
            merged_square=0.0,
        )
        statistics.differing = any(other.size != out.size or bool(np.any(other != out)) for other in sources[1:])
        return statistics
