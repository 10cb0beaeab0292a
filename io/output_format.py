"""What an output format is: its options, where it puts tensors, how it writes them, and how a result is checked.

Each format is one subclass of `OutputFormat` in a file of its own, and one row of `dovetail.io.output.FORMATS`; an
instance is the format together with its options. Nothing else knows formats apart.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from dovetail.io.checkpoint import Checkpoint, cannot_read
from dovetail.io.dtypes import DType
from dovetail.io.errors import OutputFormatError
from dovetail.io.source import Slot, Source, WrittenRange


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor that wants a place in an output."""

    name: str
    """Tensor name."""
    dtype: DType
    """Element type as written."""
    shape: tuple[int, ...]
    """Dimensions."""
    chunk_elements: int
    """Elements that a task would best write at a time."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How tasks have to cut a tensor, so that no two of them write to what the format stores as one."""

    chunk_elements: int
    """Elements that one task writes."""
    chunk_period: int = 0
    """Elements after which chunks begin anew, the last one before being shorter; 0 if they never do."""
    write_scratch_bytes: int = 0
    """Most memory that writing a chunk takes beyond the chunk."""


class PlacedTensor(Protocol):
    """An output tensor and its place."""

    @property
    def name(self) -> str:
        """Tensor name."""

    @property
    def length(self) -> int:
        """Number of elements."""

    @property
    def shard(self) -> int:
        """Position in `Layout.shards` of what holds it."""


class Shard(Protocol):
    """A part of the output that is complete when its tensors are: a safetensors file, or the folder of an array."""

    @property
    def file_name(self) -> str:
        """Name within the output folder."""

    @property
    def header(self) -> bytes:
        """What describes it: the header of the file, or the array's metadata document."""

    @property
    def size_bytes(self) -> int:
        """Size; where data is compressed, the most that it can be."""


class Layout(Protocol):
    """Where everything of the output goes, and what its metadata is."""

    @property
    def tensors(self) -> Sequence[PlacedTensor]:
        """The tensors, in the order in which they were given."""

    @property
    def shards(self) -> Sequence[Shard]:
        """What holds them."""

    @property
    def documents(self) -> Mapping[str, bytes]:
        """Further files that the sink writes into the output folder, by name, with what is in them."""


class Sink(Protocol):
    """The files of one output. Every method is safe to call from several threads."""

    def slot(self, tensor_index: int) -> Slot:
        """Return the place of a tensor, which also other processes can write to."""

    def commit(self, ranges: Iterable[WrittenRange]) -> None:
        """Make written ranges durable: they then survive a crash of the machine, whichever process wrote them.

        Raises
        ------
        OSError
            If the disk is full or fails; the ranges may then be lost.

        """

    def close(self) -> None:
        """Let go of all files. Nothing is flushed: only what was committed is durable."""


class OutputCheck(Protocol):
    """The check of one finished output against its manifest, but for the elements of its tensors.

    Whoever verifies reads the elements through `OutputFormat.open`, once `check_metadata` has found no damage, and
    compares their checksums.
    """

    @property
    def file_names(self) -> Sequence[str]:
        """Files and folders that the format has put into the output folder, by the manifest."""

    @property
    def size_bytes(self) -> int:
        """How much there is to read, for those who wait."""

    def check_metadata(self) -> tuple[list[str], int]:
        """Check what is needed to find tensors; give a sentence for everything damaged, and the bytes read."""

    def check_tensor(self, name: str, source: Source) -> list[str]:
        """Check what a tensor is stored in besides its elements; give a sentence for everything damaged."""


LayoutT = TypeVar("LayoutT", bound=Layout)


@dataclass(frozen=True)
class OutputFormat(ABC, Generic[LayoutT]):
    """A format in which outputs are written. Subclasses are frozen dataclasses, their fields the format's options."""

    name: ClassVar[str]
    """What users call it, and what the manifest says."""
    part_noun: ClassVar[str]
    """What people call one of `Layout.shards`."""
    data_noun: ClassVar[str] = ""
    """What people call the output's data where a count of its parts says little; empty to give the count."""
    sizes_are_limits: ClassVar[bool] = False
    """Whether sizes that are planned are the most that can become of them, and not exact."""
    takes_any_range: ClassVar[bool] = True
    """Whether any range of a tensor can be written by itself; else tasks write ranges that `Chunking` allows."""
    document_names: ClassVar[frozenset[str]] = frozenset()
    """Names that `Layout.documents` can have, in lower case; files of such names are never taken from a base model."""
    command_options: ClassVar[Mapping[str, str]] = {}
    """Options of the command line that are for this format alone, with the field that each is for."""

    def to_json(self) -> dict[str, Any]:
        """Give the options as the manifest keeps them, beside those that have nothing to do with the format."""
        return {self.name: asdict(self)}

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> Self:
        """Read the options from those of a manifest: see `to_json`."""
        return cls(**options[cls.name])

    def identity(self) -> dict[str, Any]:
        """Give what a plan's hash depends on; plans of earlier versions must keep theirs."""
        return self.to_json()

    @classmethod
    def refuse_option(cls, option: str, owner: str) -> OutputFormatError:
        """Word the refusal of an option of the command line that is for another format, `owner`."""
        return OutputFormatError(
            f"{option} is for {owner} output, and the output is {cls.name}",
            f"--format {owner}",
            f"add it, or leave {option}",
        )

    @abstractmethod
    def lay_out(
        self, tensors: Sequence[OutputTensor], metadata: Mapping[str, str] | None = None
    ) -> tuple[LayoutT, Sequence[Chunking]]:
        """Decide where every tensor goes, and how tasks have to cut each.

        Parameters
        ----------
        tensors
            The tensors, in the order of the output.
        metadata
            Free-form metadata of the output; None for the usual.

        Raises
        ------
        HeaderError
            If two tensors have one name, or the format has no room for what describes them.

        """

    @abstractmethod
    def create_sink(self, layout: LayoutT, folder: Path) -> Sink:
        """Create the output's files, with all metadata, in an existing folder.

        Raises
        ------
        FileExistsError
            If one of them is already there.
        OSError
            If the disk is full or the folder cannot be written.

        """

    @abstractmethod
    def reopen_sink(self, layout: LayoutT, folder: Path) -> Sink:
        """Open the files that `create_sink` made in an earlier run.

        Raises
        ------
        OSError
            If one of them is not there or not as it was made, and cannot be made again.

        """

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the catalogue of a finished output.

        Raises
        ------
        CheckpointError
            If it is damaged or cannot be read.

        """
        absolute = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would lose the folder of a linked file
        try:
            return cls.read(absolute)
        except OSError as error:
            raise cannot_read(absolute, error) from error

    @classmethod
    @abstractmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Do what `open` does, given an absolute path; an OSError may be left to `open`."""

    @classmethod
    @abstractmethod
    def shard_entries(cls, layout: LayoutT) -> list[dict[str, Any]]:
        """Describe `Layout.shards` for the manifest; nothing where `tensor_entry` describes them all."""

    @classmethod
    def tensor_entry(cls, layout: LayoutT, index: int, chunking: Chunking) -> dict[str, Any]:
        """Give what the manifest says of a tensor besides what it says in every format.

        Parameters
        ----------
        layout
            From `lay_out`.
        index
            Which tensor.
        chunking
            How tasks cut it.

        """
        return {"chunk_period": chunking.chunk_period} if chunking.chunk_period else {}

    @classmethod
    @abstractmethod
    def check(cls, folder: Path, manifest: Mapping[str, Any]) -> OutputCheck:
        """Begin the check of a finished output.

        Parameters
        ----------
        folder
            The output.
        manifest
            Its manifest, of which nothing has been checked yet but that it is what was written.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the manifest is not as `shard_entries` and `tensor_entry` make it.

        """
