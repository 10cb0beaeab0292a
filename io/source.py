"""The protocols through which the engine reads and writes stored tensors of any format.

The engine uses only the members that these protocols have, and never asks for a class. No member has a default
implementation, because a class that wraps another source would then give the default instead of passing the call on.
`checked_source` and `checked_slot` let mypy refuse a class that lacks a member. `tests/io/contracts` has the tests that
every implementation must pass.
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
    """How much must be decoded to read a range of a tensor that is stored in chunks."""

    elements: int
    """Number of elements that are decoded if no decoded chunk is kept from earlier reads."""
    shared_bytes: int
    """Size of those decoded chunks that hold elements outside the range too. If they are kept, neighbouring ranges
    need not decode them again."""


def combined(decodings: Iterable[Decoding | None]) -> Decoding | None:
    """Add up the decodings of several reads; ``None`` if none of them reads chunks."""
    found = [decoding for decoding in decodings if decoding is not None]
    if not found:
        return None
    return Decoding(sum(item.elements for item in found), sum(item.shared_bytes for item in found))


class StoredObjects(Protocol):
    """The objects of a store that hold one tensor and nothing else."""

    def object_keys(self) -> Iterator[str]:
        """List the names, within the tensor's folder, of all objects that a tensor of this shape has."""

    def check_padding(self) -> None:
        """Decode the chunks that no read decodes, because they hold nothing but padding beyond the tensor's end.

        Raises
        ------
        CheckpointError
            One of these chunks is damaged.

        """


class Source(Protocol):
    """The stored elements of one tensor, flattened row-major. Sources can be pickled and shared among threads.

    All ranges are half-open ranges of elements within ``[0, length)``; `read` raises `IndexError` for others.
    `prefetch`, `populate` and `release` are hints about memory, and never change what `read` returns.
    """

    @property
    def length(self) -> int:
        """Number of elements."""

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""

    @property
    def copies(self) -> bool:
        """Whether `read` copies elements, so that reading a range takes twice the range's size."""

    @property
    def scratch_bytes(self) -> int:
        """Most memory that one `read` takes while it runs, besides the array that it returns and what `copies` adds."""

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of a range.

        Returns
        -------
        uint8[(stop - start) * itemsize]
            Read-only and aligned to the element size; a view rather than a copy, unless `copies` is true.

        Raises
        ------
        CheckpointError
            The stored bytes have changed, vanished or are damaged.
        IndexError
            The range is not within the tensor.

        """

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range from disk, without waiting for it."""

    def populate(self, start: int, stop: int) -> bool:
        """Read a range into memory now, waiting for the disk; return ``False`` if the system cannot do that.

        Raises
        ------
        CheckpointError
            The range cannot be read, because its file was cut short or the disk fails.

        """

    def release(self, start: int, stop: int) -> None:
        """Free the memory that a range takes; a later read brings it back."""

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes | None:
        """Give the bytes of a mapped file that a range consists of, so that neighbouring ranges can be read at once.

        ``None`` if the range is not a run of consecutive bytes in one mapped file.
        """

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say how much reading a range decodes; ``None``, for every range, if the tensor is not stored in chunks."""

    def stored_objects(self) -> StoredObjects | None:
        """Give the objects that hold the tensor; ``None`` if they hold other tensors too, or if it is computed."""


class ByteFile(Protocol):
    """An output file to which bytes can be written at any position. Two objects for the same file are equal."""

    def write(self, offset_bytes: int, data: memoryview) -> None:
        """Write bytes at a position.

        Raises
        ------
        OSError
            If the disk is full or fails.

        """


class Slot(Protocol):
    """The place of one output tensor, to which its elements are written. Slots can be pickled and shared by threads."""

    def write(self, start: int, data: NDArray[np.uint8]) -> None:
        """Write the stored bytes of consecutive elements, from element `start` on.

        Raises
        ------
        OSError
            If the disk is full or fails.

        """

    def file_place(self, start: int, stop: int) -> tuple[ByteFile, int] | None:
        """Give the file that holds a range of elements, and the position of the first byte.

        Neighbouring ranges can then be written by one call. ``None`` if the range is not stored as consecutive bytes of
        one file.
        """


def out_of_range(start: int, stop: int, length: int) -> IndexError:
    """Make the error for a range of elements that is not within a tensor of `length` elements."""
    return IndexError(f"elements {start} to {stop} of a tensor of {length}")


WrittenRange = tuple[int, int, int]
"""Position of a tensor in the layout, and a range of its elements: start and stop."""

_AnySource = TypeVar("_AnySource", bound=Source)
_AnySlot = TypeVar("_AnySlot", bound=Slot)


def checked_source(cls: type[_AnySource]) -> type[_AnySource]:
    """Return a class unchanged; the types let mypy check that the class has every member of `Source`.

    The class cannot simply inherit from `Source`, because a dataclass takes an inherited property for the default
    value of a field with the same name.
    """
    return cls


def checked_slot(cls: type[_AnySlot]) -> type[_AnySlot]:
    """Return a class unchanged; the types let mypy check that the class has every member of `Slot`."""
    return cls
