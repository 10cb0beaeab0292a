"""Reading what a model keeps of a tensor from a store of task vectors: marks, and the values at the marked places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.errors import StoreError
from dovetail.io.source import StoredObjects, checked_source
from dovetail.io.zarr.source import ZarrSource
from dovetail.io.zarr.vectors import mark_bytes

HEADER: Final = np.dtype([("count", "<u8"), ("base", "<u8"), ("scale", "<f4"), ("rest", "<u4", (3,))])
"""The header of a row of marks: `dovetail.io.zarr.vectors.HEADER_BYTES` bytes."""

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dovetail.io.checkpoint import TensorInfo

_ALIGNMENT = 8


def rows_of(info: TensorInfo) -> ZarrSource | None:
    """Give the source of a matrix whose chunks are its rows, each an object; None if it is stored otherwise."""
    source = info.source
    if isinstance(source, ZarrSource) and source.chunk_shape == (1, *info.shape[1:]) and not source.sharded:
        return source
    return None


@checked_source
@dataclass(frozen=True, slots=True)
class PackedSource:
    """What one model keeps of a tensor, packed: a source but for one promise, as fewer bytes stand for its elements.

    `read` takes ranges that begin and end with chunks of the store, and gives for each chunk its row of marks, and then
    the values at the marked places, filled up with zeros to a multiple of 8 bytes.
    """

    label: str
    """What people call the tensor in the store."""
    marks: ZarrSource
    """The rows of marks: see `dovetail.io.zarr.vectors`."""
    values: ZarrSource
    """The rows of values."""
    length: int
    """Number of elements of the tensor."""
    chunk: int
    """Elements of a chunk."""
    most: int
    """Values in a row: the most that a chunk can have, a multiple of 8."""

    @property
    def itemsize(self) -> int:
        """Most bytes that stand for one element: a value, and its mark."""
        return self.values.itemsize + 1

    @property
    def copies(self) -> bool:
        """True: `read` always makes a new array."""
        return True

    @property
    def _row_bytes(self) -> int:
        """Bytes of both rows of a chunk."""
        return mark_bytes(self.chunk) + self.most * self.values.itemsize

    @property
    def scratch_bytes(self) -> int:
        """What decoding a row takes, and the rows of a last chunk that has few elements."""
        return max(self.marks.scratch_bytes, self.values.scratch_bytes) + self._row_bytes

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the packed chunks that elements ``[start, stop)`` consist of.

        Raises
        ------
        StoreError
            A row's marks do not fit its values.
        CheckpointError
            An object is damaged, gone, or has changed.
        IndexError
            The range is not within the tensor, or ends within a chunk.

        """
        if not 0 <= start <= stop <= self.length or start % self.chunk or (stop % self.chunk and stop != self.length):
            raise IndexError(f"elements {start} to {stop} of a tensor of {self.length} in chunks of {self.chunk}")
        chunks = range(start // self.chunk, -(-stop // self.chunk))
        room, end = np.empty(len(chunks) * self._row_bytes, np.uint8), 0
        for index in chunks:  # each a little shorter than its room, so that they follow each other
            end += self._read_chunk(index, room[end : end + self._row_bytes])
        result = room[:end]
        result.flags.writeable = False
        return result

    def _read_chunk(self, index: int, out: NDArray[np.uint8]) -> int:
        """Read one chunk: its row of marks, its values, and what fills them up; give how many bytes they are."""
        width, size = mark_bytes(self.chunk), self.values.itemsize
        row, kept = out[:width], out[width:]
        self.marks.read_row(index, row)
        self.values.read_row(index, kept)
        count = int(row[: HEADER.itemsize].view(HEADER)[0]["count"])
        elements = min(self.chunk, self.length - index * self.chunk)
        bits = row[HEADER.itemsize :]
        beyond = bits[elements // 8 :].copy()
        beyond[:1] >>= elements % 8
        marked = int(np.bitwise_count(bits.view(np.uint64)).sum())
        if marked != count or beyond.any():
            found = f"marks {marked} places" + (" and some beyond its end" if beyond.any() else "")
            raise self._unsound(index, found, f"{count} within its {elements} elements")
        end = -(-(count * size) // _ALIGNMENT) * _ALIGNMENT
        # By words, where a method can keep anything the zeros of a row are most of it.
        if count > self.most or kept[count * size : end].any() or kept[end:].view(np.uint64).any():
            raise self._unsound(index, f"has other values than for its {count} marks", f"{count} values")
        return width + end

    def _unsound(self, index: int, found: str, expected: str) -> StoreError:
        return StoreError(f"chunk {index} of {self.label} {found}", expected, "copy the store again, or make it anew")

    def prefetch(self, start: int, stop: int) -> None:
        """Ask for the rows of a range's chunks."""
        first, last = start // self.chunk, -(-stop // self.chunk)
        self.marks.prefetch(first * mark_bytes(self.chunk), last * mark_bytes(self.chunk))
        self.values.prefetch(first * self.most, last * self.most)

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing: no memory is mapped, so there are no pages to make resident."""
        return False

    def release(self, start: int, stop: int) -> None:
        """Do nothing: the memory of a read is freed with the array that holds it."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give none: no file is mapped."""

    def decoding(self, start: int, stop: int) -> None:
        """Give none: no two tasks need the same chunk."""

    def stored_objects(self) -> StoredObjects | None:
        """Give the objects of the values, which hold nothing else."""
        return self.values.stored_objects()
