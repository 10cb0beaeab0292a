"""What a merge will do, fully decided before the first byte of a tensor is read."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.facts import cut, facts_html, facts_text, listed
from dovetail.engine.methods.convert import CONVERT
from dovetail.engine.methods.extract_lora import EXTRACT_LORA
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.modules import MODULES
from dovetail.engine.methods.program import Holding, Program, State
from dovetail.engine.methods.vectors import is_making
from dovetail.engine.planning.grid import OPEN_JOBS, PAGE_SLACK_BYTES, Job, Piece
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.planning.work import OutputRange, PieceWork, SampleWork, Work
from dovetail.engine.recipe import Recipe, StackedLayers
from dovetail.engine.text import counted, format_size, short_name
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.output import SafetensorsFormat
from dovetail.io.output_format import Layout, OutputFormat
from dovetail.io.source import Slot

if TYPE_CHECKING:
    from dovetail.engine.planning.vocabulary.output_vocabulary import Vocabulary

MATHS_VERSION = 3
"""Changes whenever the same recipe and inputs give other bits than before."""

READ_AHEAD = 2
"""Tasks queued, with their inputs being read, beyond those that run."""

UNFOLDED_PER_WORKER = 2
"""Partial results of reduce passes for each worker, beyond `READ_AHEAD` of them, that are held at most."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What, besides the recipe and the inputs, decides the output's bytes."""

    format: OutputFormat[Any] = field(default_factory=SafetensorsFormat)
    """The output's format, with its options."""
    dtype: str | None = None
    """Output dtype; None for the recipe's, else the base model's own, tensor by tensor."""
    round_float32: bool = False
    """Whether tensors that all models keep in float32 among narrower ones are rounded to `dtype` too; see `islands`.
    The dtypes of the output's tensors are part of the plan's hash, and so tell."""
    seed: int = 0
    """Seed of random masks."""
    keep_nonfinite: bool = False
    """Whether NaN and infinity pass through; else they are errors."""
    strict: bool = False
    """Whether it is an error if the recipe has keys without effect, or if the checkpoints do not have the same tensors
    in the same shapes. It decides between an error and a warning alone, so it is no part of the plan's hash."""
    allow_partial: bool = False
    """Whether a model may give less than half of its elements to the merge; else that is an error. Like `strict`, it is
    no part of the plan's hash."""
    copy_tokenizer: bool = True
    """Whether the output takes the base model's tokenizer files over; a tokenizer that the recipe asks for is always
    written."""
    model_card: bool = True
    """Whether the output has a README.md that says how it was made."""
    card_pictures: bool = False
    """Whether the README.md shows pictures of what the merge did, which are files beside it."""

    def __post_init__(self) -> None:
        """Refuse pictures for a card that is not wanted."""
        if self.card_pictures and not self.model_card:
            raise RecipeError("card_pictures is asked for without model_card", "pictures with a card", "leave one out")

    def small_files(self) -> dict[str, bool]:
        """Say which of the output's small files are wanted, where that is otherwise than it is without a word."""
        usual = {"copy_tokenizer": True, "model_card": True, "card_pictures": False}
        return {name: getattr(self, name) for name, wanted in usual.items() if getattr(self, name) != wanted}


@dataclass(frozen=True, slots=True)
class Plan:
    """A merge, fully decided."""

    recipe: Recipe
    """What was asked for; a conversion is described as a recipe of one model, which no file holds."""
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
    tie: bool | None
    """What the result's configuration has to say of whether the head is tied; None to leave it as it is."""
    vocabulary: Vocabulary | None
    """The output's tokenizer where it is not simply the base model's."""
    warnings: tuple[str, ...]
    """What a person should know before running it."""
    hash: str
    """Changes whenever the output would change."""

    def __repr__(self) -> str:
        return facts_text("Plan", self._facts())

    def _repr_html_(self) -> str:
        """Show it as a table in notebooks."""
        return facts_html("Plan", self._facts())

    def _facts(self) -> dict[str, str]:
        """Give what a person wants to know, in at most eight lines."""
        dtypes, form = Counter(tensor.dtype.torch_name for tensor in self.tensors), self.options.format
        elements = sum(tensor.length for tensor in self.tensors)
        rows = {
            self.noun: self.method.name,
            "base model": cut(short_name(str(self.base.path))) if self.base else "none",
            "models": listed([short_name(name) for name in self.models]),
            "output": f"{counted(len(self.tensors), 'tensor')}, {elements:,} elements, "
            + ", ".join(f"{count} {name}" for name, count in dtypes.most_common()),
            "reads": f"{format_size(self.read_bytes)} in {counted(self.task_count, 'task')}",
            "writes": ("at most " if form.sizes_are_limits else "")
            + f"{format_size(self.write_bytes)} in {counted(len(self.layout.shards), form.part_noun)}",
            "hash": self.hash[:16],
        }
        return rows | ({"warnings": f"{len(self.warnings)}: {cut(self.warnings[0])}"} if self.warnings else {})

    @property
    def is_conversion(self) -> bool:
        """Whether one checkpoint is only stored anew."""
        return self.method.name == CONVERT.name

    @property
    def noun(self) -> str:
        """What people call it."""
        if is_making(self.method):
            return "store"
        known = {CONVERT.name: "conversion", EXTRACT_LORA.name: "extraction", MODULES.name: "extraction"}
        return known.get(self.method.name, "merge")

    @property
    def task_count(self) -> int:
        """Number of tasks of the apply pass."""
        return sum(len(job.tasks) for job in self.jobs)

    @property
    def read_bytes(self) -> int:
        """Bytes read from checkpoints, every pass counted."""
        return sum(tensor.input_bytes * tensor.passes + tensor.sampled_bytes for tensor in self.tensors)

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
        known: dict[object, tuple[int, int]] = {}
        for job in self.jobs:
            for pieces in self._largest(job):
                tensors = [self.tensors[piece.tensor] for piece in pieces]
                needs = [
                    tensor.needs(piece.start, piece.stop, known) for tensor, piece in zip(tensors, pieces, strict=True)
                ]
                slack = PAGE_SLACK_BYTES * max([len(tensor.inputs) for tensor in tensors])
                most = max(most, sum([held for held, _ in needs]) + max([scratch for _, scratch in needs]) + slack)
        return most

    @property
    def read_ahead_bytes(self) -> int:
        """Most memory that the network fetches ahead of need: inputs of waiting tasks, and of one that has begun with
        other tensors; 0 if all inputs are local.
        """
        if not any(item.remote for item in self.checkpoints):
            return 0
        tasks = (task for job in self.jobs for task in self._largest(job))
        return (READ_AHEAD + 1) * max((sum(map(self._window_bytes, task)) for task in tasks), default=0)

    def _largest(self, job: Job) -> Collection[tuple[Piece, ...]]:
        """Give those tasks of a job of which one takes most memory."""
        if len(job.tasks) == 1:
            return job.tasks
        tensor = self.tensors[job.tasks[0][0].tensor]
        if tensor.followers:  # what a chunk gives of each output differs from chunk to chunk
            return job.tasks
        # Which chunk needs most of the inputs depends on how chunks and rows meet.
        return (job.tasks[0], max(job.tasks, key=lambda task: self._reach(tensor, task[0])))

    @staticmethod
    def _reach(tensor: PlannedTensor, piece: Piece) -> int:
        """Give the elements that a chunk needs and gives."""
        low, high = tensor.program.window(piece.start, piece.stop)
        return high - low + piece.stop - piece.start

    def _window_bytes(self, piece: Piece) -> int:
        """Give the bytes of all inputs that a piece reads."""
        tensor = self.tensors[piece.tensor]
        low, high = tensor.program.window(piece.start, piece.stop)
        return (high - low) * (tensor.element_bytes - tensor.dtype.itemsize)

    @property
    def accumulator_bytes(self) -> int:
        """Most memory that accumulators of reduce passes, and the states around them, take in the jobs that are open
        at once, if memory allows all of them.
        """
        return self.accumulated_bytes(OPEN_JOBS)

    def accumulated_bytes(self, open_jobs: int) -> int:
        """Give the same for so many open jobs."""
        held = (
            tensor.program.accumulator_bytes(tensor.chunking.chunk_elements, tensor.chunk_count)
            for tensor in self._reduced
        )
        return sum(heapq.nlargest(open_jobs, held))

    @property
    def partial_bytes(self) -> int:
        """Most memory that one chunk's partial result of a reduce pass takes while it waits to be folded."""
        return max(
            (tensor.program.partial_bytes(tensor.chunking.chunk_elements) for tensor in self._reduced), default=0
        )

    def held_bytes(self, job: Job) -> int:
        """Give the memory that a job would take to hold, between its passes, what it can; 0 if it can hold nothing."""
        tensor = self.tensors[job.tasks[0][0].tensor]
        if not self.reduce_passes(job) or not isinstance(tensor.program, Holding):
            return 0
        return tensor.program.held_bytes(tensor.chunking.chunk_elements, tensor.chunk_count)

    @property
    def _reduced(self) -> Iterator[PlannedTensor]:
        """The tensors of several chunks that have reduce passes: only their partial results wait."""
        return (self.tensors[job.tasks[0][0].tensor] for job in self.jobs if self.reduce_passes(job))

    def program(self, job: Job) -> Program:
        """Give the program that a job runs; if the job is a batch of small tensors, that of the first."""
        return self.tensors[job.tasks[0][0].tensor].program

    def outputs(self, piece: Piece) -> list[tuple[int, int, int]]:
        """Give what a piece writes: the index of each output tensor of its problem, and the elements ``[start, stop)``.

        A piece is of the first of them; its own elements are those of the inputs.
        """
        tensor = self.tensors[piece.tensor]
        if not tensor.followers:
            return [(piece.tensor, piece.start, piece.stop)]
        return [
            (piece.tensor + output, *tensor.output_range(output, piece.start, piece.stop))
            for output in range(1 + len(tensor.followers))
        ]

    def _output_ranges(self, piece: Piece, slots: Callable[[int], Slot]) -> tuple[OutputRange, ...]:
        """Give what a piece writes, with its places."""
        tensor, index = self.tensors[piece.tensor], piece.tensor
        if not tensor.followers:  # as almost always, and for thousands of small tensors
            return (OutputRange(index, piece.start, piece.stop, tensor.dtype.itemsize, slots(index)),)
        return tuple(
            OutputRange(index, begin, end, self.tensors[index].dtype.itemsize, slots(index))
            for index, begin, end in self.outputs(piece)
        )

    def output_bytes(self, piece: Piece) -> int:
        """Give the bytes that a piece writes, all outputs counted."""
        tensor = self.tensors[piece.tensor]
        if not tensor.followers:
            return (piece.stop - piece.start) * tensor.dtype.itemsize
        return sum([(stop - start) * self.tensors[index].dtype.itemsize for index, start, stop in self.outputs(piece)])

    def reduce_passes(self, job: Job) -> int:
        """Give a job's number of reduce passes; tensors that are one chunk run theirs inside their task."""
        return self.program(job).reduce_passes if len(job.tasks) > 1 else 0

    def frugal(self) -> Plan:
        """Give a plan of the same output whose programs take less memory, and perhaps more passes."""
        programs: dict[int, Program] = {}
        found = []
        for tensor in self.tensors:
            program = programs.setdefault(id(tensor.program), tensor.program.frugal())
            found.append(tensor if program is tensor.program else replace(tensor, program=program))
        same = all(old is new for old, new in zip(self.tensors, found, strict=True))
        return self if same else replace(self, tensors=tuple(found))

    def sample(self, job: Job, step: int, state: State, ranges: Sequence[tuple[int, int]]) -> SampleWork:
        """Build the work of a reduce pass that reads ranges of elements, and not the tasks of a job."""
        tensor = self.tensors[job.tasks[0][0].tensor]
        return SampleWork(job.first_task, step, tensor.program, tuple(ranges), tensor.base, tensor.models, state)

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
                    chunk=piece.chunk,
                    start=piece.start,
                    stop=piece.stop,
                    length=tensor.domain,
                    program=tensor.program,
                    window=windows[key],
                    base=tensor.base,
                    models=tensor.models,
                    outputs=self._output_ranges(piece, slots),
                    state=state,
                )
            )
        return Work(job.first_task + position, step, tuple(pieces), self.options.keep_nonfinite)
