"""What a merge tells whoever watches it: a stream of small events, shown by `display` or printed as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `name` is the value of ``event`` in JSON."""

    name: ClassVar[str] = "event"

    def to_json(self) -> dict[str, Any]:
        """Give the event as a JSON object."""
        return {"event": self.name, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something that a person should read; the merge goes on."""

    name: ClassVar[str] = "notice"
    level: str
    """``info`` or ``warning``."""
    text: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The plan fits; the first task is about to run."""

    name: ClassVar[str] = "started"
    method: str
    """Name of the method."""
    tensors: int
    """Number of output tensors."""
    tasks: int
    """Number of tasks."""
    read_bytes: int
    """Bytes to read from the inputs, every pass counted."""
    write_bytes: int
    """Bytes to write."""
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
    """One more task is done."""

    name: ClassVar[str] = "progress"
    done_bytes: int
    """Bytes read and written so far."""
    total_bytes: int
    """Bytes to read and write in all."""
    seconds: float
    """Time since the work began."""
    resident_bytes: int
    """Memory that the process holds."""


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """Some tasks' output is on the disk."""

    name: ClassVar[str] = "committed"
    tasks: int
    """Tasks whose output is durable so far."""
    bytes: int
    """Bytes that this commit made durable."""


@dataclass(frozen=True, slots=True)
class ShardFinished(Event):
    """Every tensor of one output file is on the disk."""

    name: ClassVar[str] = "shard"
    file: str
    """File name inside the staging folder."""
    bytes: int
    """Its size."""
    checksums: dict[str, list[str]]
    """For each tensor of the file, the XXH3-64 of every chunk, as in the manifest."""


@dataclass(frozen=True, slots=True)
class Done(Event):
    """The output is complete and in place."""

    name: ClassVar[str] = "done"
    output: str
    """Folder of the output."""
    seconds: float
    """From the call to the end."""
    merge_seconds: float
    """Of these, reading, computing and writing: without starting up, compiling and finishing."""
    read_bytes: int
    """Bytes read from the inputs, every pass counted."""
    written_bytes: int
    """Bytes written."""
    peak_resident_bytes: int
    """Most memory that the process has held."""
    allowed_bytes: int
    """Limit on it."""
    workers: int
    """Tasks that ran at once."""
    summary: dict[str, Any]
    """Totals of the per-tensor statistics, as in the manifest."""


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """One of several conversions has failed; the others go on."""

    name: ClassVar[str] = "failed"
    source: str
    """The checkpoint as it was named."""
    output: str
    """Folder that was to be made."""
    text: str
    """What is wrong, and what can be done."""
    exit_code: int
    """The command's, if this is the first failure."""


Listener = Callable[[Event], None]
"""Receives every event, always on the thread that runs the merge."""


def ignore(event: Event) -> None:
    """Listen to nothing."""
