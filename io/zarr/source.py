"""Reading the elements of a tensor from the chunks of a Zarr array."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from dovetail.io.errors import ChangedFileError, ZarrError
from dovetail.io.files.boxes import Box, boxes
from dovetail.io.source import Decoding, checked_source, out_of_range
from dovetail.io.zarr.chunk_pool import pool
from dovetail.io.zarr.direct import direct_codec
from dovetail.io.zarr.place import WHOLE, Place
from dovetail.io.zarr.shards import ENTRY_BYTES, KEPT_BYTES, ShardIndexes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dovetail.io.zarr.codecs import Codec

Position = tuple[int, ...]
"""Indices of a chunk in the grid of chunks."""

_MOST_PREFETCHED: Final = 64
_TINY: Final = 64
_STRETCH: Final = 2**14
_SLACK_BYTES: Final = 2**20


@checked_source
@dataclass(frozen=True, slots=True)
class ZarrSource:
    """The elements of a Zarr array, flattened row-major, little endian.

    A read decodes, one after another, the chunks that hold elements of its range. Chunks may have any shape. Where they
    do not hold whole rows, neighbouring ranges share chunks, and `dovetail.io.zarr.chunk_pool` keeps the shared chunks
    within its limit.
    """

    place: Place
    """The place of the checkpoint."""
    prefix: str
    """Beginning of the keys of the array's objects: the path of the array and a slash, or nothing."""
    text: bytes
    """Metadata of the array: `dovetail.io.zarr.document.ArrayDocument.text`."""
    shape: tuple[int, ...]
    """Dimensions of the tensor."""
    itemsize: int
    """Size of one element in bytes."""
    chunk_shape: tuple[int, ...]
    """Dimensions of a chunk; if the array has shards, of a chunk within a shard."""
    object_shape: tuple[int, ...]
    """Dimensions of a stored object: a shard if the array has shards, else a chunk."""
    sharded: bool
    """Whether the stored objects are shards."""
    newest_ns: int
    """Latest modification time of the objects when the checkpoint was opened, in nanoseconds since 1970."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def copies(self) -> bool:
        """True: `read` always makes a new array."""
        return True

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk."""
        return math.prod(self.chunk_shape) * self.itemsize

    @property
    def limit_bytes(self) -> int:
        """Most bytes that a stored chunk, or the index of a shard, may have."""
        return max(self.chunk_bytes + self.chunk_bytes // 4, self._index_bytes) + _SLACK_BYTES

    @property
    def _index_bytes(self) -> int:
        return ENTRY_BYTES * (math.prod(self.object_shape) // math.prod(self.chunk_shape)) if self.sharded else 0

    @property
    def scratch_bytes(self) -> int:
        """Most bytes that a read takes beyond its result.

        It holds one stored chunk, that chunk decoded, in two copies, and the indexes of shards.
        """
        indexes = max(self._index_bytes, KEPT_BYTES) if self.sharded else 0
        return self.limit_bytes + 2 * self.chunk_bytes + indexes

    def decoding(self, start: int, stop: int) -> Decoding:
        """Say how many elements are in the chunks that a range meets, and how much of that its neighbours need too."""
        met = shared = 0
        for low, high in self._stretches(start, stop):
            positions = self._parts(low, high, self.chunk_shape)
            met += len(positions)
            shared += sum(1 for position in positions if self._shared(position, start, stop))
        return Decoding(met * math.prod(self.chunk_shape), shared * self.chunk_bytes)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of elements ``[start, stop)``.

        Raises
        ------
        ZarrError
            A chunk cannot be decoded.
        ChangedFileError
            A chunk was written after the checkpoint was opened.

        """
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        kind = f"u{self.itemsize}"
        out = np.empty(stop - start, f"<{kind}")
        codec, indexes = self._codec(), ShardIndexes()
        for low, high in self._stretches(start, stop):
            wanted = out[low - start : high - start]
            for position, parts in self._parts(low, high, self.chunk_shape).items():
                chunk = self._chunk(codec, position, indexes, keep=self._shared(position, low, high))
                stored = chunk.view(f"{'>' if chunk.dtype.byteorder == '>' else '<'}{kind}")
                for box in parts:
                    inside, outside = self._overlap(position, box)
                    wanted[box.offset : box.offset + box.length].reshape(box.shape)[outside] = stored[inside]
                del chunk, stored
        result = out.view(np.uint8)
        result.flags.writeable = False
        return result

    def read_row(self, index: int, out: NDArray[np.uint8]) -> None:
        """Decode a row of a matrix of which every row is one chunk, into memory of the caller.

        Parameters
        ----------
        index
            The row.
        out : uint8[chunk_bytes]
            Receives it.

        Raises
        ------
        ZarrError, ChangedFileError
            As `read` does; and the chunk is not there.

        """
        position, codec = (index, 0), direct_codec(self.text)
        if codec is None:
            width = self.chunk_shape[1]
            out[:] = self.read(index * width, (index + 1) * width)
            return
        key = codec.key(position)
        data = self.place.read(self.prefix + key, WHOLE, self.limit_bytes, self.newest_ns)
        if data is None:
            raise ChangedFileError(
                f"{self.place.label}/{self.prefix}{key} is gone", "the chunk that was opened", "put it back"
            )
        try:
            codec.decode(key, data, out)
        except ZarrError as error:
            raise self._located(error) from error

    def prefetch(self, start: int, stop: int) -> None:
        """Ask the place to start reading the objects of a range."""
        if stop - start > _MOST_PREFETCHED * math.prod(self.object_shape):
            return  # and does not list them all only to find that they are too many
        objects = self._parts(start, stop, self.object_shape)
        if len(objects) <= _MOST_PREFETCHED:
            direct = direct_codec(self.text)
            key = self._codec().object_key if direct is None else direct.key
            for position in objects:
                self.place.prefetch(self.prefix + key(position))

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing: no memory is mapped, so there are no pages to make resident."""
        return False

    def release(self, start: int, stop: int) -> None:
        """Do nothing: the memory of a read is freed with the array that holds it."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give none: no file is mapped."""

    def stored_objects(self) -> Self:
        """Give the array's chunks or shards: it shares them with no other."""
        return self

    def object_keys(self) -> Iterator[str]:
        """List the keys, within the array, of all objects that hold elements of the tensor."""
        codec = self._codec()
        if self.length:
            per_object = [whole // chunk for whole, chunk in zip(self.object_shape, self.chunk_shape, strict=True)]
            counts = [-(-size // whole) for size, whole in zip(self.shape, self.object_shape, strict=True)]
            for index in itertools.product(*map(range, counts)):
                yield codec.key(tuple(item * count for item, count in zip(index, per_object, strict=True)))

    def check_padding(self) -> None:
        """Decode the chunks of shards that lie wholly beyond the edges of the tensor, which no read needs.

        Raises
        ------
        ZarrError
            A chunk cannot be decoded.

        """
        if not self.length or not self.sharded:
            return
        codec, indexes = self._codec(), ShardIndexes()
        needed = [-(-size // chunk) for size, chunk in zip(self.shape, self.chunk_shape, strict=True)]
        stored = [
            -(-size // whole) * whole // chunk
            for size, whole, chunk in zip(self.shape, self.object_shape, self.chunk_shape, strict=True)
        ]
        for position in itertools.product(*map(range, stored)):
            if any(index >= count for index, count in zip(position, needed, strict=True)):
                self._chunk(codec, position, indexes, keep=False)

    def _codec(self) -> Codec:
        from dovetail.io.zarr.codecs import open_codec

        return open_codec(self.text, self.chunk_shape, self.object_shape, sharded=self.sharded)

    def _chunk(self, codec: Codec, position: Position, indexes: ShardIndexes, *, keep: bool) -> NDArray[Any]:
        def fetch(key: str, begin: int, end: int | None) -> bytes | None:
            return self.place.read(self.prefix + key, (begin, end), self.limit_bytes, self.newest_ns)

        def decode() -> NDArray[Any]:
            try:
                return codec.decode(position, fetch, indexes)
            except ZarrError as error:
                raise self._located(error) from error

        return pool().get((self.place, self.prefix, position, self.newest_ns), decode, keep=keep)

    def _located(self, error: ZarrError) -> ZarrError:
        """Say in which array a chunk is damaged."""
        return ZarrError(f"{self.place.label}/{self.prefix}: {error.what}", error.expected, error.action)

    def _stretches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut a range where chunks are tiny, so that a list of those that it meets is never long."""
        step = _STRETCH if math.prod(self.chunk_shape) < _TINY else max(1, stop - start)
        for low in range(start, stop, step):
            yield low, min(stop, low + step)

    def _parts(self, start: int, stop: int, shape: tuple[int, ...]) -> dict[Position, list[Box]]:
        """Find, in order, the chunks or objects of a shape that hold elements of a range, and the boxes in each."""
        found: dict[Position, list[Box]] = {}
        for box in boxes(self.shape, start, stop):
            ranges = (
                range(low // chunk, (high - 1) // chunk + 1)
                for low, high, chunk in zip(box.lows, box.highs, shape, strict=True)
            )
            for position in itertools.product(*ranges):
                found.setdefault(position, []).append(box)
        return found

    def _overlap(self, position: Position, box: Box) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Find the overlap of a chunk and a box, as slices of the chunk and as slices of the box."""
        inside, outside = [], []
        for index, chunk, low, high in zip(position, self.chunk_shape, box.lows, box.highs, strict=True):
            first, last = max(index * chunk, low), min((index + 1) * chunk, high)
            inside.append(slice(first - index * chunk, last - index * chunk))
            outside.append(slice(first - low, last - low))
        return tuple(inside), tuple(outside)

    def _shared(self, position: Position, start: int, stop: int) -> bool:
        """Tell whether a chunk holds elements outside a range."""
        first = last = 0
        for index, size, chunk in zip(position, self.shape, self.chunk_shape, strict=True):
            first = first * size + index * chunk
            last = last * size + min((index + 1) * chunk, size) - 1
        return first < start or last >= stop
