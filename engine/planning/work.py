"""What one task is given to do: chunks with their inputs, programs and places in the output. Picklable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dovetail.engine.methods.program import Program, State
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.source import Slot, Source


class Input(NamedTuple):  # faster to make than a frozen dataclass, and there can be a million
    """One source tensor of an output tensor."""

    source: Source
    """Where its elements are read."""
    code: int
    """Its dtype code; -1 where the tensor is only copied."""
    checkpoint: str
    """Name of its checkpoint, for people."""
    tensor: str
    """Its name in that checkpoint."""
    stored_bytes: int | None = None
    """Bytes of the whole tensor as it is stored, where fewer are stored than read; else None."""
    packed: bool = False
    """Whether what is read is packed, as of a store of task vectors: fewer bytes than its elements have."""

    def saved_bytes(self, start: int, stop: int) -> int:
        """Count the bytes by which elements ``[start, stop)`` are larger than what is stored of them."""
        if self.stored_bytes is None:
            return 0
        length = max(1, self.source.length)
        stored = stop * self.stored_bytes // length - start * self.stored_bytes // length
        return (stop - start) * self.source.itemsize - stored

    def stored_part(self, start: int, stop: int) -> int:
        """Count the bytes that are stored of elements ``[start, stop)``."""
        return (stop - start) * self.source.itemsize - self.saved_bytes(start, stop)


def stored_bytes(info: TensorInfo, length: int) -> int | None:
    """Give `Input.stored_bytes` of so many elements of a tensor."""
    return None if info.stored is None else info.stored.nbytes * length // max(1, info.length)


@dataclass(frozen=True, slots=True)
class OutputRange:
    """The elements of one output tensor that a chunk gives."""

    tensor: int
    """Index of the output tensor."""
    start: int
    """First element."""
    stop: int
    """One past the last element."""
    element_bytes: int
    """Bytes of one element."""
    slot: Slot
    """Where the output tensor is written."""


@dataclass(frozen=True, slots=True)
class PieceWork:
    """One chunk with everything needed to compute it."""

    chunk: int
    """Index of the chunk in its tensor."""
    start: int
    """First element, of the inputs where there are several outputs."""
    stop: int
    """One past the last element."""
    length: int
    """Elements that all chunks cover."""
    program: Program
    """What to compute."""
    window: tuple[int, int]
    """Elements of the inputs that it needs."""
    base: Input | None
    """The base model's tensor."""
    models: tuple[Input, ...]
    """The models' tensors, in the order of the method."""
    outputs: tuple[OutputRange, ...]
    """What it gives: a range of the output tensor, or of each where the problem has several."""
    state: State = None
    """What earlier reduce passes found."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The base model's tensor, if any, then the models'."""
        return self.models if self.base is None else (self.base, *self.models)

    @property
    def whole(self) -> bool:
        """Whether the piece is the only chunk, so that all passes can run in one task."""
        return self.stop - self.start == self.length


@dataclass(frozen=True, slots=True)
class SampleWork:
    """A reduce pass that reads a sample of a tensor."""

    task: int
    """Index in the plan of the tensor's first task."""
    step: int
    """Which reduce pass."""
    program: Program
    """What to compute."""
    ranges: tuple[tuple[int, int], ...]
    """The elements that are read: first, and one past the last."""
    base: Input | None
    """The base model's tensor."""
    models: tuple[Input, ...]
    """The models' tensors, in the order of the method."""
    state: State
    """What earlier reduce passes found."""


@dataclass(frozen=True, slots=True)
class Work:
    """One task and the pass to run."""

    task: int
    """Index of the task in the plan."""
    step: int
    """Which reduce pass; the number of reduce passes stands for the apply pass."""
    pieces: tuple[PieceWork, ...]
    """The chunks."""
    keep_nonfinite: bool
    """Whether NaN and infinity pass through; else they are errors."""
