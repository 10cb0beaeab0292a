"""One output tensor as it is planned: where it comes from, how it is computed, and how it is cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dovetail.engine.methods.outputs import GroupProgram
from dovetail.engine.methods.program import Problem, Program
from dovetail.engine.planning.grid import chunk_count, chunk_range
from dovetail.engine.planning.work import Input
from dovetail.io.dtypes import DType
from dovetail.io.output_format import Chunking
from dovetail.io.source import Source


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One output tensor."""

    name: str
    """Its name."""
    shape: tuple[int, ...]
    """Its shape."""
    length: int
    """Its number of elements."""
    dtype: DType
    """Its dtype in the output."""
    program: Program
    """How it is computed."""
    problem: Problem | None
    """The problem as its method sees it, by the name of another tensor where both are alike; None for a copy."""
    base: Input | None
    """The base model's tensor."""
    models: tuple[Input, ...]
    """The models' tensors, in the order of the method."""
    order: tuple[int, ...]
    """Index in `Plan.models` of each of `models`."""
    element_bytes: int
    """Bytes that one element moves: every input and the output."""
    chunking: Chunking
    """How it is cut into chunks."""
    inputs_length: int | None = None
    """Elements of each input, which chunks are cut from, where the problem has several outputs; else None."""
    followers: tuple[DType, ...] = ()
    """Dtypes of the problem's further outputs, which come next in the plan; empty for these themselves."""
    output: int = 0
    """Which of its problem's outputs it is. Further ones have no inputs: the first one's pieces write them."""

    def __repr__(self) -> str:
        how = "copy" if self.problem is None else type(self.program).__name__
        made = f"{how}, inputs: {len(self.inputs)}, chunks: {self.chunk_count}"
        return f"PlannedTensor({self.name!r}, {self.dtype} {list(self.shape)}, {made})"

    @property
    def domain(self) -> int:
        """Elements that chunks are cut from: the inputs', which for a problem with one output are the output's."""
        return self.length if self.inputs_length is None else self.inputs_length

    @property
    def chunk_count(self) -> int:
        """Number of chunks, at least one."""
        return chunk_count(self.domain, self.chunking.chunk_elements, self.chunking.chunk_period)

    @property
    def _is_one_chunk(self) -> bool:
        """Whether there is one chunk, of which most of many thousand tensors can say so without counting."""
        chunking = self.chunking
        return (not chunking.chunk_period and self.domain <= chunking.chunk_elements) or self.chunk_count == 1

    def chunk_range(self, index: int) -> tuple[int, int]:
        """Give the elements ``[start, stop)`` of the output that a chunk gives; they may be none of several outputs."""
        return self.output_range(self.output, *self.input_range(index))

    def input_range(self, index: int) -> tuple[int, int]:
        """Give the elements ``[start, stop)`` of the inputs that a chunk covers."""
        return chunk_range(self.domain, self.chunking.chunk_elements, self.chunking.chunk_period, index)

    def output_range(self, output: int, start: int, stop: int) -> tuple[int, int]:
        """Give the elements of one of the problem's outputs that elements ``start:stop`` of the inputs give."""
        if self.inputs_length is None:
            return start, stop
        return cast("GroupProgram", self.program).output_range(output, start, stop)

    @property
    def chunk_edges(self) -> list[int]:
        """Where each chunk of one of several outputs begins, and where the last ends."""
        return [*(self.chunk_range(index)[0] for index in range(self.chunk_count)), self.length]

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The base model's tensor, if any, then the models'."""
        return self.models if self.base is None else (self.base, *self.models)

    @property
    def input_bytes(self) -> int:
        """Bytes of all inputs as they are stored, read once."""
        return self.read_bytes(0, self.domain)

    def read_bytes(self, start: int, stop: int) -> int:
        """Bytes of elements ``start:stop`` of all inputs as they are stored."""
        saved = sum([item.saved_bytes(start, stop) for item in self.inputs])
        return (stop - start) * (self.element_bytes - self.dtype.itemsize) - saved

    @property
    def passes(self) -> int:
        """Number of times the inputs are read, as far as can be foreseen; a tensor of one chunk is read just once."""
        return 1 if self._is_one_chunk else self.program.readings[0] + 1

    @property
    def sampled_bytes(self) -> int:
        """Bytes that are read besides, of a sample of the inputs."""
        if self._is_one_chunk:
            return 0
        return self.program.readings[1] * (self.element_bytes - self.dtype.itemsize)

    @property
    def moved_bytes(self) -> int:
        """Bytes that are read, in all passes, and written."""
        return self.input_bytes * self.passes + self.sampled_bytes + self.length * self.dtype.itemsize

    @property
    def mapped(self) -> bool:
        """Whether all inputs are runs of mapped files, of which a few elements are read as quickly as their share."""
        return all(item.source.mapped_bytes(0, item.source.length) is not None for item in self.inputs)

    @property
    def copied(self) -> bool:
        """Whether the tensor is taken as it is rather than merged."""
        return self.problem is None

    def needs(self, start: int, stop: int, known: dict[object, tuple[int, int]]) -> tuple[int, int]:
        """Give `held_bytes` and `scratch_bytes` of a chunk; `known` has those of others, and receives these.

        Of many thousand small tensors most are alike, and need the same.
        """
        program, length, size = self.program, self.length, self.element_bytes
        alike = id(program), start, stop, length, size, self.dtype.itemsize, self.chunking.write_scratch_bytes
        if (found := known.get(alike)) is not None and self._plain:
            return found
        needs = self.held_bytes(start, stop), self.scratch_bytes(start, stop)
        if self._plain:
            known[alike] = needs
        return needs

    @property
    def _plain(self) -> bool:
        """Whether reading takes no memory besides the mapped pages, and there is one output."""
        if self.followers or self.inputs_length is not None:
            return False
        return not any(item.source.copies or item.source.scratch_bytes for item in self.inputs)

    def held_bytes(self, start: int, stop: int) -> int:
        """Memory that a chunk ``start:stop`` takes for data: mapped windows, copies of them, output buffers."""
        low, high = self.program.window(start, stop)
        windows = (high - low) * (self.element_bytes - self.dtype.itemsize)
        windows += sum([(high - low) * item.source.itemsize for item in self.inputs if _is_held_twice(item.source)])
        if not self.followers:
            return windows + (stop - start) * self.dtype.itemsize
        ranges = [self.output_range(output, start, stop) for output in range(1 + len(self.followers))]
        dtypes = (self.dtype, *self.followers)
        return windows + sum(
            [(end - begin) * dtype.itemsize for (begin, end), dtype in zip(ranges, dtypes, strict=True)]
        )

    def scratch_bytes(self, start: int, stop: int) -> int:
        """Working memory for elements ``start:stop``, that of reading and of writing included.

        Inputs are read one after another, and the output is written when they are no longer read.
        """
        low, high = self.program.window(start, stop)
        moving = max([self.chunking.write_scratch_bytes, *[item.source.scratch_bytes for item in self.inputs]])
        reducing = 0
        if self.program.reduce_passes and stop - start == self.domain:  # the passes run in one task
            reducing = self.program.partial_bytes(self.domain) + self.program.accumulator_bytes(self.domain, 1)
        return moving + reducing + self.program.scratch_bytes(high - low)


def _is_held_twice(source: Source) -> bool:
    """Whether what a read copies stays in memory beside the copy: not where it is decoded from objects of its own."""
    return source.copies and (source.stored_objects() is None or source.mapped_bytes(0, 0) is not None)


def widest_window(program: Program, length: int, chunk: int) -> int:
    """Give the most elements of the inputs that any chunk of a tensor needs.

    Which chunk needs most depends on how chunks and rows meet, so that all of them are looked at.
    """
    return max(
        high - low
        for low, high in (program.window(start, min(length, start + chunk)) for start in range(0, length, chunk))
    )
