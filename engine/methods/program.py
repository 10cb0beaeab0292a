"""What a merge method is made of: reduce passes, then one apply pass, chunk by chunk.

A method turns a `Problem` (one output tensor with its resolved parameters) into a `Program`. The engine cuts the
tensor into chunks, runs every reduce pass over all chunks, combines their partial results in chunk order, and
hands the combined state to the next pass and finally to `Program.apply`, which writes the output.

Programs and states cross process boundaries: they are small and picklable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""Stored elements as a flat array of bytes."""

State = Any
"""What reduce passes have found so far; `None` before the first."""


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
        """Compute the most bytes of the partial result of a chunk of so many elements; 0 without reduce passes."""
        ...

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Widen ``start:stop`` to the elements of the inputs that the chunk needs."""
        ...

    def scratch_bytes(self, elements: int) -> int:
        """Compute the bytes of working memory for a window of so many elements, without inputs and output."""
        ...

    def reduce(self, step: int, chunk: Chunk, state: State) -> Any:
        """Compute the partial result of one chunk in pass `step`."""
        ...

    def combine(self, step: int, partials: Sequence[Any], state: State) -> State:
        """Combine the partial results of all chunks, given in chunk order, into the next state."""
        ...

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Compute elements ``chunk.start:chunk.stop`` into `out` (stored bytes of the output dtype)."""
        ...


class OnePass:
    """Base of programs without reduce passes in which a chunk needs no elements but those of its range."""

    __slots__ = ()

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: none."""
        return 0

    def partial_bytes(self, elements: int) -> int:
        """Bytes of partial results: 0, as there are no reduce passes."""
        return 0

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Need only the chunk itself."""
        return start, stop

    def reduce(self, step: int, chunk: Chunk, state: State) -> Any:
        """Never called: there are no reduce passes."""
        raise AssertionError(f"{type(self).__name__} has no reduce passes")

    def combine(self, step: int, partials: Sequence[Any], state: State) -> State:
        """Never called: there are no reduce passes."""
        raise AssertionError(f"{type(self).__name__} has no reduce passes")
