"""What a merge will do, fully decided before the first byte of a tensor is read."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.engine.methods.convert import CONVERT
from dovetail.engine.methods.extract_lora import EXTRACT_LORA
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.program import Problem, Program, State
from dovetail.engine.planning.grid import OPEN_JOBS, PAGE_SLACK_BYTES, Job, Piece, chunk_count, chunk_range
from dovetail.engine.planning.vocabulary.planned import Vocabulary
from dovetail.engine.planning.work import Input, PieceWork, Work
from dovetail.engine.recipe import Recipe, StackedLayers
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.dtypes import DType
from dovetail.io.output import Layout, ZarrOptions
from dovetail.io.source import Slot, read_scratch_bytes

MATHS_VERSION = 2
"""Changes whenever the same recipe and inputs give other bits than before."""

DEFAULT_SHARD_BYTES = 5 * 10**9
"""Default size of an output shard."""

READ_AHEAD = 2
"""Tasks queued, with their inputs being read, beyond those that run."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What, besides the recipe and the inputs, decides the output's bytes."""

    shard_size_bytes: int = DEFAULT_SHARD_BYTES
    """Size at which a new output shard begins."""
    dtype: str | None = None
    """Output dtype; None for the recipe's, else the base model's own, tensor by tensor."""
    seed: int = 0
    """Seed of random masks."""
    keep_nonfinite: bool = False
    """Whether NaN and infinity pass through; else they are errors."""
    strict: bool = False
    """Whether it is an error if the checkpoints do not have the same tensors in the same shapes. It decides between an
    error and a warning alone, so it is no part of the plan's hash."""
    zarr: ZarrOptions | None = None
    """How the output is stored as Zarr; None for safetensors."""


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
    """What it is to its method, which may be told of another tensor of the same kind; None if it is copied."""
    base: Input | None
    """The base model's tensor."""
    models: tuple[Input, ...]
    """The models' tensors, in the order of the method."""
    order: tuple[int, ...]
    """Index in `Plan.models` of each of `models`."""
    element_bytes: int
    """Bytes that one element moves: every input and the output."""
    chunk_elements: int
    """Elements in a chunk."""
    chunk_period: int = 0
    """Elements after which chunks begin anew, the last one before being shorter; 0 if they never do."""
    write_scratch_bytes: int = 0
    """Most memory that writing a chunk takes beyond the chunk."""

    @property
    def chunk_count(self) -> int:
        """Number of chunks, at least one."""
        return chunk_count(self.length, self.chunk_elements, self.chunk_period)

    def chunk_range(self, index: int) -> tuple[int, int]:
        """Give the elements ``[start, stop)`` of a chunk."""
        return chunk_range(self.length, self.chunk_elements, self.chunk_period, index)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The base model's tensor, if any, then the models'."""
        return self.models if self.base is None else (self.base, *self.models)

    @property
    def input_bytes(self) -> int:
        """Bytes of all inputs, read once."""
        return self.length * (self.element_bytes - self.dtype.itemsize)

    @property
    def passes(self) -> int:
        """Number of times the inputs are read; a tensor of one chunk is read just once."""
        return 1 if self.chunk_count == 1 else self.program.reduce_passes + 1

    @property
    def copied(self) -> bool:
        """Whether the tensor is taken as it is rather than merged."""
        return self.problem is None

    def held_bytes(self, start: int, stop: int) -> int:
        """Memory that elements ``start:stop`` take as such: mapped windows, copies of them, output buffer."""
        low, high = self.program.window(start, stop)
        windows = (high - low) * (self.element_bytes - self.dtype.itemsize)
        windows += sum([(high - low) * item.source.itemsize for item in self.inputs if item.source.copies])
        return windows + (stop - start) * self.dtype.itemsize

    def scratch_bytes(self, start: int, stop: int) -> int:
        """Working memory for elements ``start:stop``, that of reading and of writing included.

        Inputs are read one after another, and the output is written when they are no longer read.
        """
        low, high = self.program.window(start, stop)
        moving = max([self.write_scratch_bytes, *[read_scratch_bytes(item.source) for item in self.inputs]])
        return moving + self.program.scratch_bytes(high - low)


@dataclass(frozen=True, slots=True)
class Plan:
    """A merge, fully decided."""

    recipe: Recipe
    """What was asked for; a conversion is told as a recipe of one model that no file holds."""
    options: PlanOptions
    """How it was asked for."""
    method: Method
    """The row of the table of methods."""
    checkpoints: tuple[Checkpoint, ...]
    """Every checkpoint that is read, the base model first."""
    base: Checkpoint | None
    """The base model, or None."""
    models: tuple[str, ...]
    """Names of the merged models, in recipe order."""
    tensors: tuple[PlannedTensor, ...]
    """Output tensors in the order of the output files."""
    layout: Layout
    """Output files, headers and offsets."""
    jobs: tuple[Job, ...]
    """Tasks, grouped."""
    stacks: tuple[StackedLayers, ...]
    """Stacks of layers of the result that slices put together."""
    untied: bool
    """Whether the result has a head of its own although the checkpoint of its configuration ties it."""
    vocabulary: Vocabulary | None
    """The output's tokenizer where it is not simply the base model's."""
    warnings: tuple[str, ...]
    """What a person should know before running it."""
    hash: str
    """Changes whenever the output would change."""

    @property
    def is_conversion(self) -> bool:
        """Whether one checkpoint is only stored anew."""
        return self.method.name == CONVERT.name

    @property
    def noun(self) -> str:
        """What people call it."""
        return {CONVERT.name: "conversion", EXTRACT_LORA.name: "extraction"}.get(self.method.name, "merge")

    @property
    def task_count(self) -> int:
        """Number of tasks of the apply pass."""
        return sum(len(job.tasks) for job in self.jobs)

    @property
    def read_bytes(self) -> int:
        """Bytes read from checkpoints, every pass counted."""
        return sum(tensor.input_bytes * tensor.passes for tensor in self.tensors)

    @property
    def write_bytes(self) -> int:
        """Bytes of all output shards."""
        return sum(shard.size_bytes for shard in self.layout.shards)

    @property
    def side_checkpoint(self) -> Checkpoint:
        """The checkpoint whose configuration, tokenizer and other small files the output takes."""
        return self.base or self.checkpoints[0]

    @property
    def side_index(self) -> int:
        """Position of `side_checkpoint` in `checkpoints`."""
        return next(i for i, checkpoint in enumerate(self.checkpoints) if checkpoint is self.side_checkpoint)

    @property
    def task_bytes(self) -> int:
        """Most memory that one running task takes: what all its pieces hold, one's scratch, pages around each input."""
        most = 0
        for job in self.jobs:
            # All chunks but the last have one length; windows widen most in the middle.
            positions = {0, len(job.tasks) // 2, len(job.tasks) - 1}
            for pieces in [job.tasks[position] for position in positions]:
                tensors = [self.tensors[piece.tensor] for piece in pieces]
                places = [(tensor, piece.start, piece.stop) for tensor, piece in zip(tensors, pieces, strict=True)]
                held = sum([tensor.held_bytes(start, stop) for tensor, start, stop in places])
                scratch = max([tensor.scratch_bytes(start, stop) for tensor, start, stop in places])
                slack = PAGE_SLACK_BYTES * max([len(tensor.inputs) for tensor in tensors])
                most = max(most, held + scratch + slack)
        return most

    @property
    def read_ahead_bytes(self) -> int:
        """Most memory that the network fetches ahead of need: inputs of waiting tasks, and of one that has begun with
        other tensors; 0 if all inputs are local.
        """
        if not any(item.remote for item in self.checkpoints):
            return 0
        tasks = (task for job in self.jobs for task in (job.tasks[0], job.tasks[len(job.tasks) // 2]))
        return (READ_AHEAD + 1) * max((sum(map(self._window_bytes, task)) for task in tasks), default=0)

    def _window_bytes(self, piece: Piece) -> int:
        """Give the bytes of all inputs that a piece reads."""
        tensor = self.tensors[piece.tensor]
        low, high = tensor.program.window(piece.start, piece.stop)
        return (high - low) * (tensor.element_bytes - tensor.dtype.itemsize)

    @property
    def partial_bytes(self) -> int:
        """Most memory that partial results of reduce passes take while the jobs that wait for them are open."""
        waiting = [
            (len(job.tasks), self.tensors[job.tasks[0][0].tensor]) for job in self.jobs if self.reduce_passes(job)
        ]
        held = (count * tensor.program.partial_bytes(tensor.chunk_elements) for count, tensor in waiting)
        return sum(heapq.nlargest(OPEN_JOBS, held))

    def reduce_passes(self, job: Job) -> int:
        """Give a job's number of reduce passes; tensors that are one chunk run theirs inside their task."""
        return self.tensors[job.tasks[0][0].tensor].program.reduce_passes if len(job.tasks) > 1 else 0

    def combine(self, job: Job, step: int, partials: Sequence[Any], state: State) -> State:
        """Combine the partial results of a job's reduce pass, given in chunk order."""
        return self.tensors[job.tasks[0][0].tensor].program.combine(step, partials, state)

    def work(self, job: Job, position: int, step: int, state: State, slots: Callable[[int], Slot]) -> Work:
        """Build the work of one task of a job.

        Parameters
        ----------
        job, position
            The job, and which of its tasks.
        step, state
            The pass, and what the passes before it found.
        slots
            Gives the place to write by the tensor's index.

        """
        pieces = []
        windows: dict[tuple[int, int, int], tuple[int, int]] = {}  # many tensors share a program and a length
        for piece in job.tasks[position]:
            tensor = self.tensors[piece.tensor]
            key = id(tensor.program), piece.start, piece.stop
            if key not in windows:
                windows[key] = tensor.program.window(piece.start, piece.stop)
            pieces.append(
                PieceWork(
                    tensor=piece.tensor,
                    chunk=piece.chunk,
                    start=piece.start,
                    stop=piece.stop,
                    length=tensor.length,
                    program=tensor.program,
                    window=windows[key],
                    base=tensor.base,
                    models=tensor.models,
                    element_bytes=tensor.dtype.itemsize,
                    slot=slots(piece.tensor),
                    state=state,
                )
            )
        return Work(job.first_task + position, step, tuple(pieces), self.options.keep_nonfinite)
