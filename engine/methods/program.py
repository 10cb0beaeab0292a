"""What a merge method is made of: reduce passes, then one apply pass, chunk by chunk.

A method turns a `Problem` (one output tensor with its resolved parameters) into a `Program`. The engine cuts the
tensor into chunks and runs every reduce pass over all of them. It folds the chunks' partial results, in chunk order,
into one accumulator, and makes of it the state that the next pass sees, and finally `Program.apply`, which writes the
output. Chunks may finish in any order, but only a few partial results wait to be folded: memory does not grow with
their number.

Programs, states and partial results cross process boundaries, so they can be pickled. Accumulators stay in the process
that folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""Stored elements as a flat array of bytes."""

State = Any
"""What reduce passes have found so far; `None` before the first."""

Accumulator = Any
"""What the partial results of one reduce pass have been folded into so far. It belongs to the pass alone, so that
`Program.fold` may change it in place."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One output tensor, with everything that a method needs to know of it."""

    name: str
    """Name of the output tensor."""
    shape: tuple[int, ...]
    """Shape of the output tensor."""
    length: int
    """Number of elements."""
    base_code: int | None
    """Dtype code of the base model's tensor; None without a base model."""
    model_codes: tuple[int, ...]
    """Dtype codes of the models' tensors, in model order."""
    out_code: int
    """Dtype code of the output."""
    parameters: Mapping[str, Any]
    """Parameters of the merge, with their values for this tensor."""
    model_parameters: tuple[Mapping[str, Any], ...]
    """Parameters of each model, with their values for this tensor, in model order."""
    seed: int = 0
    """Seed of random masks."""
    model_names: tuple[str, ...] = ()
    """Names of the models, in model order, for messages; empty where no message is shown."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The inputs of one chunk: elements ``window_start:window_stop`` of each source, flattened."""

    index: int
    """Position of the chunk in its tensor."""
    start: int
    """First element to compute."""
    stop: int
    """One past the last element to compute."""
    window_start: int
    """First element present in the arrays, at most `start`."""
    base: Bytes | None
    """The base model's stored bytes of the window."""
    models: tuple[Bytes, ...]
    """The models' stored bytes of the window, in model order."""


@dataclass(slots=True)
class ChunkStatistics:
    """Statistics of one chunk; those of a tensor are their sum over its chunks.

    A method without masks keeps every element that its task vectors change. For a method without task vectors, all
    fields but `overflowed` and `nonfinite` are zero.
    """

    kept: NDArray[np.int64]
    """``kept[i, j]``: number of elements that both model i and model j keep; on the diagonal, that model i keeps."""
    delta_square: NDArray[np.float64]
    """Sum of squares of each model's task vector."""
    kept_square: NDArray[np.float64]
    """Sum of squares of the kept part of each model's task vector."""
    merged_square: float
    """Sum of squares of the merged change, output minus base, before rounding to the output dtype."""
    overflowed: int = 0
    """Number of elements of the output that are not finite: they are too large for float32 or for the output dtype, or
    they are NaN or infinite in an input."""
    nonfinite: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Number of NaN and infinite elements in each source: in the base model, if there is one, then in each model."""
    differing: bool = False
    """Whether a tensor that is copied, not merged, differs between the sources."""


class Program(Protocol):
    """How one tensor is computed."""

    @property
    def reduce_passes(self) -> int:
        """Number of passes over the inputs before the apply pass."""
        ...

    def partial_bytes(self, elements: int) -> int:
        """Compute the most bytes of the partial result of a chunk of so many elements; 0 without reduce passes.

        That of a pass over ranges, of which there is one at a time, counts as part of its accumulator.
        """
        ...

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """Most bytes of a reduce pass's accumulator and of the states before and after it, with `finish` at work.

        Parameters
        ----------
        elements
            Elements of a chunk.
        chunks
            Chunks of the tensor.

        """
        ...

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Widen ``start:stop`` to the elements of the inputs that the chunk needs."""
        ...

    def scratch_bytes(self, elements: int) -> int:
        """Compute the bytes of working memory for a window of so many elements, without inputs and output."""
        ...

    def reads(self, step: int, state: State) -> Sequence[tuple[int, int]] | None:
        """Say which elements reduce pass `step` reads: None for all of them, chunk by chunk.

        Otherwise ranges, first element and one past the last. `reduce` is called once then, with a chunk of just these
        elements, one after another, that begins at 0. If there are no ranges, the pass is left out, with `begin` and
        `finish`. Ranges are read only from sources that give a few elements as quickly as their share; see `frugal`.
        """
        ...

    @property
    def readings(self) -> tuple[int, int]:
        """Foresee what reduce passes read: how many of them all elements, and how many elements the others in all."""
        ...

    def frugal(self) -> Program:
        """Give a program with the same result that takes less memory, and reads whole chunks alone; perhaps itself."""
        ...

    def reduce(self, step: int, chunk: Chunk, state: State) -> Any:
        """Compute the partial result of one chunk in pass `step`."""
        ...

    def begin(self, step: int, state: State) -> Accumulator:
        """Make the accumulator of pass `step`, with no chunk in it yet."""
        ...

    def fold(self, step: int, accumulator: Accumulator, partial: Any) -> Accumulator:
        """Add the partial result of the next chunk, in place or anew; chunks come in order, none left out.

        The partial result is given away: the accumulator may keep it.
        """
        ...

    def finish(self, step: int, accumulator: Accumulator, state: State) -> State:
        """Make the next state of an accumulator that has all chunks in it, and of the state before the pass."""
        ...

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Compute elements ``chunk.start:chunk.stop`` into `out` (stored bytes of the output dtype)."""
        ...


@runtime_checkable
class Holding(Program, Protocol):
    """A program that can hold, between passes, what it would compute again; the output is the same."""

    def held_bytes(self, elements: int, chunks: int) -> int:
        """Bytes that are held of a tensor, from a reduce pass to the apply pass, beside the accumulator; 0 if none are.

        Parameters
        ----------
        elements
            Elements of a chunk.
        chunks
            Chunks of the tensor.

        """
        ...

    def holding(self) -> Self:
        """Give the same program, which holds it. It has to be the one of all passes."""
        ...

    def part(self, state: State, start: int, stop: int) -> State:
        """Leave out of a state what is held of other elements than ``start:stop``, those of one chunk."""
        ...


class EveryChunk:
    """Base of programs that have one way to go, and read every chunk in every pass."""

    __slots__ = ()

    def reads(self, step: int, state: State) -> Sequence[tuple[int, int]] | None:
        """Read all elements."""
        return None

    @property
    def readings(self) -> tuple[int, int]:
        """Every reduce pass reads all elements."""
        return getattr(self, "reduce_passes"), 0  # noqa: B009 - subclasses have it

    def frugal(self) -> Any:
        """Give the program itself."""
        return self


class OnePass(EveryChunk):
    """Base of programs without reduce passes in which a chunk needs no elements but those of its range."""

    __slots__ = ()

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: none."""
        return 0

    def partial_bytes(self, elements: int) -> int:
        """Bytes of partial results: 0, as there are no reduce passes."""
        return 0

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """None: there are no reduce passes."""
        return 0

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Need only the chunk itself."""
        return start, stop

    def reduce(self, step: int, chunk: Chunk, state: State) -> Any:
        """Never called: there are no reduce passes."""
        raise AssertionError(f"{type(self).__name__} has no reduce passes")

    def begin(self, step: int, state: State) -> Accumulator:
        """Never called: there are no reduce passes."""
        raise AssertionError(f"{type(self).__name__} has no reduce passes")

    def fold(self, step: int, accumulator: Accumulator, partial: Any) -> Accumulator:
        """Never called: there are no reduce passes."""
        raise AssertionError(f"{type(self).__name__} has no reduce passes")

    def finish(self, step: int, accumulator: Accumulator, state: State) -> State:
        """Never called: there are no reduce passes."""
        raise AssertionError(f"{type(self).__name__} has no reduce passes")


def reduce_whole(program: Program, chunk: Chunk) -> State:
    """Run every reduce pass of a tensor that is one chunk, and give the state for the apply pass."""
    state: State = None
    for step in range(program.reduce_passes):
        ranges = program.reads(step, state)
        if ranges is None or ranges:
            part = chunk if ranges is None else _sample_of(chunk, ranges)
            accumulator = program.fold(step, program.begin(step, state), program.reduce(step, part, state))
            state = program.finish(step, accumulator, state)
    return state


def _sample_of(chunk: Chunk, ranges: Sequence[tuple[int, int]]) -> Chunk:
    """Cut ranges of elements out of a chunk of a whole tensor."""
    length = chunk.stop - chunk.start

    def cut(raw: Bytes) -> Bytes:
        size = raw.size // length
        return np.concatenate([raw[start * size : stop * size] for start, stop in ranges])

    return sample_chunk(ranges, None if chunk.base is None else cut(chunk.base), [cut(raw) for raw in chunk.models])


def sample_chunk(ranges: Sequence[tuple[int, int]], base: Bytes | None, models: Sequence[Bytes]) -> Chunk:
    """Make the chunk of a pass that reads ranges, of their elements one after another."""
    return Chunk(0, 0, sum([stop - start for start, stop in ranges]), 0, base, tuple(models))
