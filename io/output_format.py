"""The interface of output formats: options, the places of tensors, writing, and checking a finished output.

Each format is a subclass of `OutputFormat` in its own file, and a row of `dovetail.io.output.FORMATS`. An instance is
the format together with its options. No other code distinguishes formats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

from dovetail.io.checkpoint import Checkpoint, cannot_read
from dovetail.io.dtypes import DType
from dovetail.io.errors import OutputFormatError
from dovetail.io.source import Slot, Source, WrittenRange

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OutputTensor(NamedTuple):  # faster to make than a frozen dataclass, and there can be a million
    """A tensor of an output that has no place yet."""

    name: str
    """Tensor name."""
    dtype: DType
    """Type of the elements that are written."""
    shape: tuple[int, ...]
    """Dimensions."""
    chunk_elements: int
    """Number of elements that the planner would have one task write."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a tensor must be cut into chunks, so that no two tasks write to one object of the format."""

    chunk_elements: int
    """Number of elements of a chunk, which one task writes."""
    chunk_period: int = 0
    """A new chunk starts at every multiple of this many elements, so that the chunk before it may be shorter.

    0 if only the last chunk of the tensor may be shorter."""
    write_scratch_bytes: int = 0
    """Most memory that writing a chunk takes besides the chunk."""


class PlacedTensor(Protocol):
    """A tensor of an output, with its place."""

    @property
    def name(self) -> str:
        """Tensor name."""

    @property
    def length(self) -> int:
        """Number of elements."""

    @property
    def shard(self) -> int:
        """Position in `Layout.shards` of the shard that holds the tensor."""


class Shard(Protocol):
    """A part of the output that holds whole tensors: a safetensors file, or the folder of a Zarr array."""

    @property
    def file_name(self) -> str:
        """Name within the output folder."""

    @property
    def header(self) -> bytes:
        """The header of the file, or the metadata document of the array."""

    @property
    def size_bytes(self) -> int:
        """Size of the shard in bytes; if data is compressed, the most that the size can be."""


class Layout(Protocol):
    """The places of all tensors of an output, and the output's metadata."""

    @property
    def tensors(self) -> Sequence[PlacedTensor]:
        """The tensors, in the order in which they were given."""

    @property
    def shards(self) -> Sequence[Shard]:
        """The shards that hold the tensors."""

    @property
    def documents(self) -> Mapping[str, bytes]:
        """Contents, by name, of further files that the sink writes into the output folder."""


class Sink(Protocol):
    """The files of one output that is being written. Every method may be called from several threads at once."""

    def slot(self, tensor_index: int) -> Slot:
        """Return the slot through which a tensor is written, by this process or others."""

    def commit(self, ranges: Iterable[WrittenRange]) -> None:
        """Make written ranges durable, whichever process wrote them, so that they survive a crash of the machine.

        Raises
        ------
        OSError
            If the disk is full or fails; the ranges may then be lost.

        """

    def close(self) -> None:
        """Close all files, without flushing them: only ranges that were committed are durable."""


class OutputCheck(Protocol):
    """Checks a finished output against its manifest, except for the elements of its tensors.

    If `check_metadata` finds no damage, the caller reads the elements through `OutputFormat.open` and compares their
    checksums.
    """

    @property
    def file_names(self) -> Sequence[str]:
        """Names of the files and folders that, by the manifest, the format has put into the output folder."""

    @property
    def size_bytes(self) -> int:
        """Bytes to read for the whole verification, with which progress is shown."""

    def check_metadata(self) -> tuple[list[str], int]:
        """Check the metadata without which tensors cannot be found.

        Returns
        -------
        list of str
            One sentence for each damaged part.
        int
            Bytes read.

        """

    def check_objects(self, name: str, source: Source) -> list[str]:
        """Check which objects a tensor is stored in, reading none; return a sentence for each one missing or extra."""

    def check_tensor(self, name: str, source: Source) -> list[str]:
        """Check the objects in which a tensor is stored, but not its elements; return a sentence for each damage."""


LayoutT = TypeVar("LayoutT", bound=Layout)


@dataclass(frozen=True)
class OutputFormat(ABC, Generic[LayoutT]):
    """A format in which outputs are written. A subclass is a frozen dataclass with the format's options as fields."""

    name: ClassVar[str]
    """The format's name on the command line and in the manifest."""
    part_noun: ClassVar[str]
    """The noun, in the singular, for one of `Layout.shards` in texts for people."""
    data_noun: ClassVar[str] = ""
    """The words for all data of an output in texts for people; if empty, the texts give the number of shards."""
    sizes_are_limits: ClassVar[bool] = False
    """Whether planned sizes are upper limits rather than exact."""
    takes_any_range: ClassVar[bool] = True
    """Whether tasks may write any range of a tensor; if not, they must keep to the ranges that `Chunking` gives."""
    takes_parts: ClassVar[bool] = False
    """Whether several processes may make one output, each some of its shards, by `share_sink`."""
    document_names: ClassVar[frozenset[str]] = frozenset()
    """Names, in lower case, that `Layout.documents` can have; no file with such a name is copied from a base model."""
    command_options: ClassVar[Mapping[str, str]] = {}
    """For each option of the command line that only this format has, the field with its value."""

    def to_json(self) -> dict[str, Any]:
        """Give the entries that the format adds to the options in the manifest."""
        return {self.name: asdict(self)}

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> Self:
        """Make the format from the options in a manifest, to which `to_json` has added its entries."""
        return cls(**options[cls.name])

    def identity(self) -> dict[str, Any]:
        """Give the options on which a plan's hash depends, in a form that must never change for existing plans."""
        return self.to_json()

    @classmethod
    def refuse_option(cls, option: str, owner: str) -> OutputFormatError:
        """Make the error for an option of the command line that belongs to another format, `owner`."""
        return OutputFormatError(
            f"{option} is for {owner} output, and the output is {cls.name}",
            f"--format {owner}",
            f"add it, or leave {option}",
        )

    @abstractmethod
    def lay_out(
        self, tensors: Sequence[OutputTensor], metadata: Mapping[str, str] | None = None
    ) -> tuple[LayoutT, Sequence[Chunking]]:
        """Decide where every tensor is stored, and how tasks must cut it.

        Parameters
        ----------
        tensors
            The tensors, in the order of the output.
        metadata
            Free-form metadata of the output; None for the format's default.

        Returns
        -------
        layout
            The places of all tensors.
        chunkings
            How each tensor must be cut, in the order of `tensors`.

        Raises
        ------
        HeaderError
            If two tensors have the same name, or if their description is larger than the format permits.

        """

    @abstractmethod
    def create_sink(self, layout: LayoutT, folder: Path) -> Sink:
        """Create the output's files, with all metadata, in an existing folder.

        Raises
        ------
        FileExistsError
            If one of the files exists already.
        OSError
            If the disk is full or the folder cannot be written.

        """

    @abstractmethod
    def reopen_sink(self, layout: LayoutT, folder: Path) -> Sink:
        """Open the files that `create_sink` made in an earlier run.

        Raises
        ------
        OSError
            If a file is missing or is not as it was created, and cannot be created again.

        """

    def share_sink(self, layout: LayoutT, folder: Path, shards: Collection[int], begun: Collection[int]) -> Sink:
        """Open some shards, and create those that are not there; `Layout.documents` are left to the caller.

        Several processes may do this at the same time, on other machines too, and even for the same shards: what is
        there of a shard stays, and who writes a range that another has written writes the same bytes.

        Parameters
        ----------
        layout
            The layout that `lay_out` gave.
        folder
            The folder in which the output grows.
        shards
            Positions in `Layout.shards`. The sink takes tensors of these alone.
        begun
            Those of `shards` that must be there, because an earlier run has written to them.

        Raises
        ------
        OutputFormatError
            If the format has not `takes_parts`.
        OSError
            If a shard that must be there is missing or is not as it was created, the disk is full, or the folder cannot
            be written.

        """
        raise OutputFormatError(f"{self.name} output cannot be shared", "a format that can", "choose another format")

    @property
    def shard_limit_bytes(self) -> int | None:
        """Most bytes of the tensors of one shard, where that can be chosen; None where each tensor is a shard."""
        return None

    def with_shard_limit(self, limit_bytes: int) -> Self:
        """Give the same format with another `shard_limit_bytes`; the same where that cannot be chosen."""
        return self

    def shard_starts(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the positions of the tensors with which shards begin, for tensors of so many bytes, in their order."""
        import numpy as np  # not at the top: help has no need of it

        return np.arange(len(sizes))

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the catalogue of a finished output.

        Raises
        ------
        CheckpointError
            If the output is damaged or cannot be read.

        """
        absolute = Path(folder).absolute()
        try:
            return cls.read(absolute)
        except OSError as error:
            raise cannot_read(absolute, error) from error

    @classmethod
    @abstractmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read the catalogue of the output in an absolute `folder`; `open` turns an OSError into a CheckpointError."""

    @classmethod
    @abstractmethod
    def shard_entries(cls, layout: LayoutT) -> list[dict[str, Any]]:
        """Describe `Layout.shards` for the manifest; the list is empty if `tensor_entry` describes them already."""

    @classmethod
    def tensor_entry(cls, layout: LayoutT, index: int, chunking: Chunking) -> dict[str, Any]:
        """Give the entries that the format adds to a tensor's entry in the manifest.

        Parameters
        ----------
        layout
            The layout that `lay_out` gave.
        index
            Position of the tensor in the layout.
        chunking
            How tasks cut the tensor.

        """
        return {"chunk_period": chunking.chunk_period} if chunking.chunk_period else {}

    @classmethod
    @abstractmethod
    def check(cls, folder: Path, manifest: Mapping[str, Any]) -> OutputCheck:
        """Make the check of a finished output.

        Parameters
        ----------
        folder
            The output folder.
        manifest
            The output's manifest. Only its checksum has been checked, so that any value in it may be wrong.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the manifest does not have the entries that `shard_entries` and `tensor_entry` make.

        """
