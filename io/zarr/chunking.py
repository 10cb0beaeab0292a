"""Cutting a stored tensor into Zarr chunks, each of which is contiguous in the tensor's file."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

DEFAULT_CHUNK_BYTES: Final = 4 * 2**20
"""Size of a chunk by default, as near below it as the shape allows."""

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """A regular grid of chunks, each of which is one run of elements in row-major order.

    A chunk is one run of elements if it has length 1 in the first dimensions, any length in the next one (the *cut*
    dimension), and the full length in all others. Only the last chunk along the cut dimension can reach beyond the
    tensor, so that its padding comes after its elements.
    """

    shape: tuple[int, ...]
    """Dimensions of the tensor."""
    chunk_shape: tuple[int, ...]
    """Dimensions of a chunk; each is at least 1, as Zarr requires."""

    @property
    def chunk_length(self) -> int:
        """Elements of a chunk, padding included."""
        return math.prod(self.chunk_shape)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of chunks along each dimension."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunk_shape, strict=True))

    def element_range(self, position: Sequence[int]) -> tuple[int, int]:
        """Compute which elements ``[start, stop)`` of the flattened tensor a chunk holds."""
        start = 0
        for index, size, chunk in zip(position, self.shape, self.chunk_shape, strict=True):
            start = start * size + index * chunk
        cut = next((axis for axis, chunk in enumerate(self.chunk_shape) if chunk > 1), None)
        if cut is None:
            return start, start + 1
        rows = min(self.chunk_shape[cut], self.shape[cut] - position[cut] * self.chunk_shape[cut])
        return start, start + rows * math.prod(self.shape[cut + 1 :])

    def find(self, element: int) -> tuple[int, ...]:
        """Find the position in the grid of the chunk that holds an element of the flattened tensor."""
        position: list[int] = []
        for size, chunk in zip(reversed(self.shape), reversed(self.chunk_shape), strict=True):
            element, index = divmod(element, size)
            position.append(index // chunk)
        return tuple(reversed(position))

    def parse_key(self, key: str) -> tuple[int, ...] | None:
        """Read the position of a chunk from its key, such as ``c/0/3``; ``None`` if the grid has no such chunk."""
        first, *parts = key.split("/")
        if first != "c" or len(parts) != len(self.shape) or not all(map(_INDEX.fullmatch, parts)):
            return None
        position = tuple(map(int, parts))
        if any(index >= count for index, count in zip(position, self.counts, strict=True)):
            return None
        return position

    def keys(self) -> Iterator[str]:
        """List the keys of all chunks, in the order of their elements."""
        for position in itertools.product(*map(range, self.counts)):
            yield "/".join(("c", *map(str, position)))

    def children(self, folder: str) -> Iterator[str]:
        """List the names directly in a folder of the tree of chunk keys, such as ``c`` or ``c/0``."""
        first, *parts = folder.split("/")
        depth = len(parts)
        if first != "c" or depth >= len(self.shape) or 0 in self.counts:
            return
        counts = self.counts
        inside = all(_INDEX.fullmatch(part) and int(part) < count for part, count in zip(parts, counts, strict=False))
        if inside:
            yield from map(str, range(counts[depth]))


def chunk_grid(shape: tuple[int, ...], itemsize: int, chunk_bytes: int) -> ChunkGrid:
    """Choose the grid with the largest chunks of at most `chunk_bytes`.

    Parameters
    ----------
    shape
        Dimensions of the tensor.
    itemsize
        Size of one element in bytes.
    chunk_bytes
        Most bytes of a chunk; where a single element is larger, each chunk holds one element.

    """
    chunk_shape = [max(1, size) for size in shape]
    row_bytes = math.prod(chunk_shape) * itemsize
    for axis, size in enumerate(chunk_shape):
        row_bytes //= size
        if row_bytes <= chunk_bytes:
            chunk_shape[axis] = min(size, max(1, chunk_bytes // row_bytes))
            break
        chunk_shape[axis] = 1
    return ChunkGrid(shape, tuple(chunk_shape))
