"""Problems with several output tensors: a low-rank pair, say, or a stacked tensor that is taken apart.

A method that has such problems says so in its row of the table of methods (`Method.outputs`), and its programs are
`GroupProgram`. The engine then cuts the *inputs* into chunks; of every chunk, a program says which elements of each
output it gives, and fills one buffer an output. Outputs have names, shapes and dtypes that need not be those of the
inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, cast

from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, Program, State


@dataclass(frozen=True, slots=True)
class Output:
    """One of several output tensors of a problem."""

    name: str
    """Its name."""
    shape: tuple[int, ...]
    """Its shape."""
    dtype: str | None = None
    """Its dtype's safetensors name, such as ``F32``; None for the dtype that an only output would have."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return prod(self.shape)


class GroupProgram(Program, Protocol):
    """A program with several outputs. `apply` is never called: `apply_group` stands in its place."""

    def output_range(self, output: int, start: int, stop: int) -> tuple[int, int]:
        """Give the elements of an output that elements ``start:stop`` of the inputs give.

        Ranges of chunks that follow each other follow each other too, from 0 to the output's length, whatever the
        chunks; some may be empty.
        """
        ...

    def apply_group(self, chunk: Chunk, state: State, outs: Sequence[Bytes]) -> ChunkStatistics:
        """Compute what a chunk gives of each output into its buffer (stored bytes of its dtype)."""
        ...


def apply_to(program: Program, chunk: Chunk, state: State, outs: Sequence[Bytes]) -> ChunkStatistics:
    """Run the apply pass for one chunk, whether the problem has one output or several."""
    if len(outs) == 1:
        return program.apply(chunk, state, outs[0])
    return cast("GroupProgram", program).apply_group(chunk, state, outs)
