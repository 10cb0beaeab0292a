"""What the engine sees of stored tensors, to read and to write, whatever the checkpoint's format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Source(Protocol):
    """The stored elements of one tensor, flattened row-major. Picklable, and safe to share among threads.

    All ranges are in elements, half open, and within ``[0, length)``. `prefetch`, `populate` and `release`
    are hints about memory: they never change what `read` returns.

    A source whose `read` needs memory beyond what it returns says how much in an attribute ``scratch_bytes``,
    which `read_scratch_bytes` finds; a source that wraps others hands on theirs.
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

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a range's bytes, flat, read-only and aligned to the element size; if possible, no copy."""

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range from disk, without waiting for it."""

    def populate(self, start: int, stop: int) -> bool:
        """Make a range resident now, waiting for the disk; ``False`` where the system cannot."""

    def release(self, start: int, stop: int) -> None:
        """Let go of a range's resident memory."""


def read_scratch_bytes(source: Source) -> int:
    """Most memory that one `Source.read` takes while it runs, beyond the array that it returns (and its copy)."""
    return int(getattr(source, "scratch_bytes", 0))


class Slot(Protocol):
    """The place of one output tensor. Picklable, and safe to share among threads."""

    def write(self, start: int, data: NDArray[np.uint8]) -> None:
        """Write the stored bytes of consecutive elements, from element `start` on.

        Raises
        ------
        OSError
            If the disk is full or fails.

        """


WrittenRange = tuple[int, int, int]
"""Position of a tensor in the layout, and the range of its elements: start and stop."""
