"""A method as another distribution brings it: the median of the models, element by element."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from dovetail.engine.methods import Bytes, Chunk, ChunkStatistics, Method, OnePass, Parameter, Problem, State

DTYPES = {0: np.dtype(np.float32), 2: np.dtype(ml_dtypes.bfloat16)}
"""Dtypes by their codes, as far as this method knows them."""


@dataclass(frozen=True, slots=True)
class Median(OnePass):
    """median(W) + shift."""

    codes: tuple[int, ...]
    """Dtype codes of the models' tensors."""
    out_code: int
    """Dtype code of the output."""
    shift: float
    """Added to the median."""

    def scratch_bytes(self, elements: int) -> int:
        """Every model in float32, twice, and the result."""
        return 4 * elements * (2 * len(self.codes) + 2)

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        values = np.stack(
            [raw.view(DTYPES[code]).astype(np.float32) for raw, code in zip(chunk.models, self.codes, strict=True)]
        )
        merged = (np.median(values, axis=0) + np.float32(self.shift)).astype(DTYPES[self.out_code])
        out[:] = merged.view(np.uint8)
        count, unused = len(self.codes), 0 if chunk.base is None else 1
        found = np.count_nonzero(~np.isfinite(values), axis=1)
        return ChunkStatistics(
            kept=np.zeros((count, count), np.int64),
            delta_square=np.zeros(count),
            kept_square=np.zeros(count),
            merged_square=0.0,
            overflowed=int(np.count_nonzero(~np.isfinite(merged.astype(np.float32)))),
            nonfinite=np.concatenate([np.zeros(unused, np.int64), found.astype(np.int64)]),
        )


def make_program(problem: Problem) -> Median:
    """Make the program of one tensor."""
    return Median(problem.model_codes, problem.out_code, float(problem.parameters["shift"]))


MEDIAN = Method(
    name="median",
    summary="Take the median of the models, element by element.",
    paper="",
    base="member",
    parameters=(Parameter("shift", "float", 0.0, "added to the median"),),
    program=make_program,
    by_name=False,
)

OTHERS = [
    replace(MEDIAN, name="linear"),
    replace(MEDIAN, name="median_without_summary", summary=""),
    replace(MEDIAN, name="median_again"),
]
"""Of these only the last can be used."""
