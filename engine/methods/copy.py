"""Copying a tensor unchanged: integer and boolean tensors, which no method merges, and what keeps its dtype when a
checkpoint is converted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.engine.methods.decoding import plain_statistics
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, State


@dataclass(frozen=True, slots=True)
class Copy(OnePass):
    """Take the first source's bytes; count where the others differ from them."""

    compared: bool = True
    """Whether there are others."""

    def scratch_bytes(self, elements: int) -> int:
        """Compare in place: one byte of result a compared byte, of at most 8 an element."""
        return 8 * elements if self.compared else 0

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Copy, and count the bytes that differ in each model."""
        sources = chunk.models if chunk.base is None else (chunk.base, *chunk.models)
        out[:] = sources[0]
        statistics = plain_statistics(len(chunk.models), 0, np.zeros(0, np.int64))
        statistics.differing = any(other.size != out.size or bool(np.any(other != out)) for other in sources[1:])
        return statistics
