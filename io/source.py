"""What the engine sees of stored tensors, to read and to write, whatever the checkpoint's format.

The engine asks nothing of a source, a slot or a sink but what the protocols here say, and never for its class. A
wrapper has to answer for what it wraps, so no member has a default: `checked_source` and `checked_slot` make mypy
refuse a class that forgets one. `tests/io/contracts` has the tests that every implementation has to pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class MappedBytes(NamedTuple):
    """A range of a memory-mapped file."""

    path: str
    """The file."""
    file_size_bytes: int
    """Size that the file must have."""
    file_mtime_ns: int
    """Modification time that the file must have, in nanoseconds since 1970."""
    begin: int
    """Position of the first byte."""
    end: int
    """One past the position of the last byte."""


class Decoding(NamedTuple):
    """What reading a range of a tensor decodes, where the tensor is stored in chunks."""

    elements: int
    """Elements that are decoded if no decoded chunk is kept; those that are stored otherwise are not counted."""
    shared_bytes: int
    """Size of the decoded chunks that hold elements outside the range too: keeping that much spares neighbouring
    ranges decoding them again."""


def combined(decodings: Iterable[Decoding | None]) -> Decoding | None:
    """Add up what several reads decode; ``None`` if none of them reads chunks."""
    found = [decoding for decoding in decodings if decoding is not None]
    if not found:
        return None
    return Decoding(sum(item.elements for item in found), sum(item.shared_bytes for item in found))


class StoredObjects(Protocol):
    """The objects that hold one tensor and nothing else."""

    def object_keys(self) -> Iterator[str]:
        """Give the names of all objects that the tensor's shape asks for, within the tensor's folder."""

    def check_padding(self) -> None:
        """Decode the chunks that no read needs, as they lie wholly beyond the tensor.

        Raises
        ------
        CheckpointError
            One of them is damaged.

        """


class Source(Protocol):
    """The stored elements of one tensor, flattened row-major. Picklable, and safe to share among threads.

    All ranges are in elements, half open, and within ``[0, length)``; `read` raises `IndexError` for others.
    `prefetch`, `populate` and `release` are hints about memory: they never change what `read` returns.
    """

    @property
    def length(self) -> int:
        """Number of elements."""

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""

    @property
    def copies(self) -> bool:
        """Whether `read` has to copy, so that a range takes twice its size."""

    @property
    def scratch_bytes(self) -> int:
        """Most memory that one `read` takes while it runs, beyond the array that it returns (and its copy)."""

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a range's bytes, flat, read-only and aligned to the element size; if possible, no copy.

        Raises
        ------
        CheckpointError
            The stored bytes changed, vanished or are damaged.
        IndexError
            The range is not within the tensor.

        """

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range from disk, without waiting for it."""

    def populate(self, start: int, stop: int) -> bool:
        """Make a range resident now, waiting for the disk; ``False`` where the system cannot."""

    def release(self, start: int, stop: int) -> None:
        """Let go of a range's resident memory."""

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes | None:
        """Say which bytes of a mapped file a range is, so that neighbours can be made resident by one call.

        ``None`` where the range is not consecutive bytes of one mapped file.
        """

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading a range decodes; ``None``, whatever the range, where the tensor is not stored in chunks."""

    def stored_objects(self) -> StoredObjects | None:
        """Give the objects that the tensor is stored in; ``None`` where it shares files with others, or is computed."""


class ByteFile(Protocol):
    """An output file that takes bytes at any position. Two are equal if they are one file."""

    def write(self, offset_bytes: int, data: memoryview) -> None:
        """Write bytes at a position.

        Raises
        ------
        OSError
            If the disk is full or fails.

        """


class Slot(Protocol):
    """The place of one output tensor. Picklable, and safe to share among threads."""

    def write(self, start: int, data: NDArray[np.uint8]) -> None:
        """Write the stored bytes of consecutive elements, from element `start` on.

        Raises
        ------
        OSError
            If the disk is full or fails.

        """

    def file_place(self, start: int, stop: int) -> tuple[ByteFile, int] | None:
        """Say in which file a range of elements lies, and at which byte, so that neighbours can be written by one call.

        ``None`` where the range is not stored as consecutive bytes of one file.
        """


def out_of_range(start: int, stop: int, length: int) -> IndexError:
    """Make the error about a range that is not within a tensor of `length` elements."""
    return IndexError(f"elements {start} to {stop} of a tensor of {length}")


WrittenRange = tuple[int, int, int]
"""Position of a tensor in the layout, and the range of its elements: start and stop."""

_AnySource = TypeVar("_AnySource", bound=Source)
_AnySlot = TypeVar("_AnySlot", bound=Slot)


def checked_source(cls: type[_AnySource]) -> type[_AnySource]:
    """Return a class as it is, and let mypy check that it has every member of `Source`.

    Explicit subclasses would not do: a dataclass takes an inherited property for the default value of its field.
    """
    return cls


def checked_slot(cls: type[_AnySlot]) -> type[_AnySlot]:
    """Return a class as it is, and let mypy check that it has every member of `Slot`."""
    return cls
