"""Conversion: one checkpoint, stored anew. `dovetail convert` uses this method; no recipe can name it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from dovetail.engine.kernels.recode import TILE, recode
from dovetail.engine.methods.decoding import plain_statistics, read_only
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, Problem, State


@dataclass(frozen=True, slots=True)
class Recode(OnePass):
    """Program of a tensor that is stored in another floating-point dtype, rounded once; it counts what overflows."""

    code: int
    """Dtype code of the source."""
    out_code: int
    """Dtype code of the output."""

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of one tile of float32."""
        return 4 * TILE

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Convert a chunk; `ChunkStatistics.overflowed` counts the elements that are finite before and not after."""
        nonfinite = np.zeros(1, np.int64)
        overflowed = recode(read_only(chunk.models[0]), self.code, out, self.out_code, nonfinite)
        return plain_statistics(1, overflowed, nonfinite)


def conversion(name: str, shape: tuple[int, ...], code: int, out_code: int) -> Problem:
    """Make the problem of one tensor that is to be stored in another dtype."""
    return Problem(
        name=name,
        shape=shape,
        length=prod(shape),
        base_code=None,
        model_codes=(code,),
        out_code=out_code,
        parameters={},
        model_parameters=({},),
    )


def make_program(problem: Problem) -> Recode:
    """Make the program of one tensor."""
    return Recode(problem.model_codes[0], problem.out_code)


CONVERT = Method(
    name="convert",
    summary="Store one checkpoint anew, in another dtype or format.",
    paper="",
    base="member",
    parameters=(),
    program=make_program,
    max_models=1,
    by_name=False,
)
"""The method of conversions, which is not a row of the table of methods."""
