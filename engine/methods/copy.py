"""Copying a tensor unchanged.

Integer and boolean tensors are copied, as no method merges them, and so are tensors that keep their dtype in a
conversion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.engine.methods.decoding import plain_statistics
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, State


@dataclass(frozen=True, slots=True)
class Copy(OnePass):
    """Program that copies the bytes of the first source, and notes whether the other sources differ."""

    compared: bool = True
    """Whether there are other sources to compare."""

    def scratch_bytes(self, elements: int) -> int:
        """Bytes for a comparison: one for each compared byte, of which an element has at most 8."""
        return 8 * elements if self.compared else 0

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Copy a chunk, and note whether any other source differs from it."""
        sources = chunk.models if chunk.base is None else (chunk.base, *chunk.models)
        out[:] = sources[0]
        statistics = plain_statistics(len(chunk.models), 0, np.zeros(0, np.int64))
        statistics.differing = any(other.size != out.size or bool(np.any(other != out)) for other in sources[1:])
        return statistics
