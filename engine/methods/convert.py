"""Conversion: one checkpoint, stored anew. No recipe can name it; `dovetail convert` uses it as merges use theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.engine.kernels.recode import TILE, recode
from dovetail.engine.methods.masked import read_only
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, Problem, State
from dovetail.engine.methods.table import Method


@dataclass(frozen=True, slots=True)
class Recode:
    """Store the one source in another floating-point dtype, rounded once; count what overflows."""

    code: int
    """Dtype code of the source."""
    out_code: int
    """Dtype code of the output."""
    reduce_passes: int = 0
    partial_bytes: int = 0

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Need just the chunk itself."""
        return start, stop

    def scratch_bytes(self, elements: int) -> int:
        """One tile of float32."""
        return 4 * TILE

    def reduce(self, step: int, chunk: Chunk, state: State) -> Any:
        """Never called: there are no reduce passes."""
        raise AssertionError("a conversion has no reduce passes")

    def combine(self, step: int, partials: Sequence[Any], state: State) -> State:
        """Never called: there are no reduce passes."""
        raise AssertionError("a conversion has no reduce passes")

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Convert a chunk; `ChunkStatistics.overflowed` counts finite elements that are none any more."""
        nonfinite = np.zeros(1, np.int64)
        overflowed = recode(read_only(chunk.models[0]), self.code, out, self.out_code, nonfinite)
        return ChunkStatistics(
            kept=np.zeros((1, 1), np.int64),
            delta_square=np.zeros(1),
            kept_square=np.zeros(1),
            merged_square=0.0,
            overflowed=overflowed,
            nonfinite=nonfinite,
        )


def make_program(problem: Problem) -> Recode:
    """Make the program of one tensor."""
    return Recode(problem.model_codes[0], problem.out_code)


CONVERT = Method(
    name="convert",
    summary="Store one checkpoint anew, in another dtype or format.",
    paper="",
    base="optional",
    parameters=(),
    program=make_program,
    max_models=1,
    by_name=False,
)
"""What a conversion has in place of a row of the table of methods."""
