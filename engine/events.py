"""Events, by which a merge reports its progress to a listener, which may show them or print them as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Event:
    """Base class of all events."""

    name: ClassVar[str] = "event"
    """Value of the key ``event`` in the event's JSON object."""

    def to_json(self) -> dict[str, Any]:
        """Give the event as a JSON object."""
        return {"event": self.name, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """A text that a person should read; the merge goes on."""

    name: ClassVar[str] = "notice"
    level: str
    """``info`` or ``warning``."""
    text: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The plan fits into memory and onto the disk, and the first task is about to run."""

    name: ClassVar[str] = "started"
    method: str
    """Name of the method."""
    tensors: int
    """Number of output tensors."""
    tasks: int
    """Number of tasks."""
    read_bytes: int
    """Bytes to read from the inputs, in all passes together."""
    write_bytes: int
    """Bytes to write to the output."""
    allowed_bytes: int
    """Limit on the memory of the process."""
    reserved_bytes: int
    """Memory that the process holds before the first task."""
    projected_bytes: int
    """Most memory that the process will hold."""
    workers: int
    """Tasks that run at once."""
    staging: str
    """Folder in which the output grows until it is complete."""


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """Another task has finished."""

    name: ClassVar[str] = "progress"
    done_bytes: int
    """Bytes read and written so far."""
    total_bytes: int
    """Bytes to read and write in all."""
    seconds: float
    """Time since the work began, in seconds."""
    resident_bytes: int
    """Memory that the process holds now."""


@dataclass(frozen=True, slots=True)
class Trained(Event):
    """A training has come further."""

    name: ClassVar[str] = "trained"
    done_images: int
    """Images seen so far, those of every epoch counted again."""
    total_images: int
    """Images to see in all epochs, if training does not stop early."""
    epoch: int
    """Epochs done."""
    epochs: int
    """Epochs to do."""
    seconds: float
    """Time spent in training, in seconds, that of earlier runs included."""
    loss: float
    """Mean loss of the epoch so far, or of the last one if none has begun."""
    validation: float | None
    """Share of the validation set that was right after the last epoch, from 0 to 1; None before the first has ended."""


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """The output of some tasks has become durable."""

    name: ClassVar[str] = "committed"
    tasks: int
    """Number of tasks with durable output so far."""
    bytes: int
    """Bytes that this commit made durable."""


@dataclass(frozen=True, slots=True)
class ShardFinished(Event):
    """Every tensor of one output file is durable."""

    name: ClassVar[str] = "shard"
    file: str
    """File name inside the staging folder."""
    bytes: int
    """Size of the file."""
    checksums: dict[str, list[str]] = field(repr=False)
    """For each tensor of the file, the XXH3-64 of every chunk, written as in the manifest."""


@dataclass(frozen=True, slots=True)
class Done(Event):
    """The output is complete and has its final name."""

    name: ClassVar[str] = "done"
    output: str
    """Folder of the output."""
    seconds: float
    """Time from the call to the end, in seconds."""
    merge_seconds: float
    """Part of that time, in seconds, in which tasks ran: without planning, compiling and finishing."""
    read_bytes: int
    """Bytes that this run has read from the inputs, in all passes together."""
    written_bytes: int
    """Bytes that this run has written to the output."""
    peak_resident_bytes: int
    """Most memory that the process has held."""
    allowed_bytes: int
    """Limit on the memory of the process."""
    workers: int
    """Tasks that ran at once."""
    summary: dict[str, Any]
    """Statistics of the whole merge, as in the manifest under ``totals``."""
    output_bytes: int
    """Bytes of the output's data before any compression, whoever has written them; 0 if they were there already."""
    share_made: float
    """Share of the output's chunks that this run has made, from 0 to 1; other runs and processes made the rest."""
    already: bool = False
    """Whether an earlier run had made the output, so that this one had nothing to do."""


@dataclass(frozen=True, slots=True)
class PartDone(Event):
    """A part of a merge is done, and others are left: the output is not complete."""

    name: ClassVar[str] = "part"
    part: int
    """Which part, from 1."""
    parts: int
    """Number of parts."""
    left: str
    """Numbers of the parts that are not done, as ``--array`` of SLURM takes them."""
    seconds: float
    """Time from the call to the end, in seconds."""
    read_bytes: int
    """Bytes read from the inputs, in all passes together."""
    written_bytes: int
    """Bytes written to the output."""
    peak_resident_bytes: int
    """Most memory that the process has held."""
    allowed_bytes: int
    """Limit on the memory of the process."""
    workers: int
    """Tasks that ran at once."""


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """One of several conversions has failed; the others go on."""

    name: ClassVar[str] = "failed"
    source: str
    """The checkpoint, as the user named it."""
    output: str
    """Folder that the conversion would have made."""
    text: str
    """What is wrong, and what the user can do about it."""
    exit_code: int
    """Exit code of this failure; the command ends with that of the first failure."""


@dataclass(frozen=True, slots=True)
class SearchStarted(Event):
    """What is searched is known, and the first candidate is about to be made."""

    name: ClassVar[str] = "search"
    method: str
    """Name of the method."""
    searched: tuple[str, ...]
    """What is searched, by the names that `Candidate.values` has."""
    optimizer: str
    """Name of the optimiser."""
    budget: int
    """Most candidates that are evaluated."""
    evaluated: int
    """Candidates that earlier runs have evaluated."""
    candidate_bytes: int
    """Size of a candidate."""
    evaluations: int
    """Most candidates that are there at once."""
    staging: str
    """Folder in which the output grows until it is complete."""


@dataclass(frozen=True, slots=True)
class Candidate(Event):
    """A candidate of a search has been evaluated."""

    name: ClassVar[str] = "candidate"
    number: int
    """Its number, from 0, the start."""
    generation: int
    """Its generation; 0 is the start."""
    values: dict[str, Any]
    """What was searched, and its values."""
    result: Any
    """What the evaluator gave: a number, losses by task, or None if it failed."""
    failure: str
    """Why it failed; empty if it did not."""
    cost: float | None
    """What the search makes small; None if it failed, or if nothing can be compared yet."""
    objective: str | None
    """Name of the objective; None before an evaluation has settled it."""
    evaluated: int
    """Candidates evaluated so far."""
    budget: int
    """Most candidates that are evaluated."""
    seconds: float
    """Time since the first candidate of this run was begun, in seconds."""
    seconds_left: float
    """Time that the candidates within the budget will take at this pace, in seconds."""


@dataclass(frozen=True, slots=True)
class Searched(Event):
    """A search is complete, and its output has its final name."""

    name: ClassVar[str] = "searched"
    output: str
    """Folder of the output."""
    values: dict[str, Any]
    """What was searched, and its best values."""
    result: Any
    """What the evaluator gave for them."""
    number: int
    """The number of the best candidate."""
    evaluated: int
    """Candidates that were evaluated, in all runs."""
    failed: int
    """Those of them that failed."""
    stopped: str
    """Why no more were evaluated."""
    seconds: float
    """Time from the call to the end, in seconds."""
    already: bool = False
    """Whether an earlier run had completed the search, so that this one had nothing to do."""


Listener = Callable[[Event], None]
"""A function that receives every event, always on the thread that runs the merge."""


def ignore(event: Event) -> None:
    """Do nothing with an event."""
