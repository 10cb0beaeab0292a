"""A read-only Zarr v3 store that presents a checkpoint as a group with one array for each tensor.

Nothing is copied or converted. Metadata documents are made when a reader requests them, and a chunk is a view of the
memory-mapped file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.buffer import default_buffer_prototype

import dovetail.io.zarr.dtypes  # noqa: F401 - registers the data types
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.zarr.chunking import DEFAULT_CHUNK_BYTES, ChunkGrid, chunk_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DOCUMENT = "zarr.json"


class SafetensorsStore(Store):
    """A read-only Zarr store that presents a checkpoint.

    Parameters
    ----------
    checkpoint
        The checkpoint, as `dovetail.io.read_checkpoint` opens it.
    chunk_bytes
        Most bytes of a chunk of the arrays.
    read_only
        Must be true. The parameter exists because every Zarr store has it.

    """

    supports_writes: bool = False
    supports_deletes: bool = False
    supports_listing: bool = True
    supports_consolidated_metadata: bool = False  # of no use, because metadata comes from memory

    def __init__(
        self, checkpoint: Checkpoint, *, chunk_bytes: int = DEFAULT_CHUNK_BYTES, read_only: bool = True
    ) -> None:
        if not read_only:
            raise ValueError("a checkpoint's store is read-only; expected read_only=True")
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is {chunk_bytes}; expected at least 1")
        super().__init__(read_only=True)
        self.checkpoint = checkpoint
        self.chunk_bytes = chunk_bytes

    def __str__(self) -> str:
        return f"safetensors://{self.checkpoint.path}"

    def __repr__(self) -> str:
        return f"SafetensorsStore('{self}')"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SafetensorsStore)
            and self.checkpoint.path == other.checkpoint.path
            and self.checkpoint.files == other.checkpoint.files
            and self.chunk_bytes == other.chunk_bytes
        )

    __hash__ = None  # type: ignore[assignment]

    def with_read_only(self, read_only: bool = False) -> Store:
        """Return the store itself, which is read-only."""
        return self if read_only else super().with_read_only(read_only)

    # Reading

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return a metadata document or a chunk, or a range of its bytes; ``None`` if the key names neither.

        A whole chunk is a read-only view of the file. A chunk that reaches beyond its array is a copy padded
        with zeros.

        Raises
        ------
        ChangedFileError, MissingFileError
            If a file changed after the checkpoint was opened, or is gone.

        """
        await self._ensure_open()
        tensor = self.checkpoint.tensors.get(key.partition("/")[0])
        if tensor is not None and tensor.source.copies:  # decoding takes long, and must not block the event loop
            return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)
        return self.get_sync(key, prototype=prototype, byte_range=byte_range)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the same as `get`, for callers that are not asynchronous."""
        self._is_open = True
        value = self._value(key)
        if value is None:
            return None
        begin, end = _byte_range(byte_range, value.size)
        return (prototype or default_buffer_prototype()).buffer.from_array_like(value[begin:end])

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return ranges of several documents or chunks."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Tell whether the store has a document or a chunk with the key."""
        return self._size_bytes(key) is not None

    async def getsize(self, key: str) -> int:
        """Return the size of a document or chunk in bytes, without reading it."""
        size = self._size_bytes(key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    # Listing

    async def list(self) -> AsyncIterator[str]:
        """List all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List all keys that start with `prefix`."""
        if _DOCUMENT.startswith(prefix):
            yield _DOCUMENT
        name, slash, _ = prefix.partition("/")
        tensors = self.checkpoint.tensors
        for candidate in ([name] if name in tensors else []) if slash else tensors:
            if slash or candidate.startswith(prefix):
                for key in self._keys(tensors[candidate]):
                    if key.startswith(prefix):
                        yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List the names directly in a folder of the tree of keys."""
        prefix = prefix.rstrip("/")
        if not prefix:
            yield _DOCUMENT
            for name in self.checkpoint.tensors:
                yield name
            return
        name, _, folder = prefix.partition("/")
        if (tensor := self.checkpoint.tensors.get(name)) is None:
            return
        grid = self._grid(tensor)
        if folder:
            for child in grid.children(folder):
                yield child
        else:
            yield _DOCUMENT
            if tensor.length:
                yield "c"

    # Writing, which is refused

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse to write."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse to delete."""
        self._check_writable()

    # Keys to values

    def _find(self, key: str) -> tuple[TensorInfo, ChunkGrid, tuple[int, ...]] | None:
        """Find the tensor, the grid and the position of the chunk with a key."""
        name, _, rest = key.partition("/")
        tensor = self.checkpoint.tensors.get(name)
        if tensor is None:
            return None
        grid = self._grid(tensor)
        position = grid.parse_key(rest)
        return None if position is None else (tensor, grid, position)

    def _grid(self, tensor: TensorInfo) -> ChunkGrid:
        return chunk_grid(tensor.shape, tensor.dtype.itemsize, self.chunk_bytes)

    def _keys(self, tensor: TensorInfo) -> Iterable[str]:
        yield f"{tensor.name}/{_DOCUMENT}"
        for key in self._grid(tensor).keys():  # noqa: SIM118 - a grid is no mapping
            yield f"{tensor.name}/{key}"

    def _value(self, key: str) -> NDArray[np.uint8] | None:
        if (document := self._document(key)) is not None:
            return np.frombuffer(document, np.uint8)
        if (found := self._find(key)) is None:
            return None
        tensor, grid, position = found
        start, stop = grid.element_range(position)
        tensor.source.prefetch(start, stop)
        value = tensor.source.read(start, stop)
        if stop - start == grid.chunk_length:
            return value
        padded = np.zeros(grid.chunk_length * tensor.dtype.itemsize, np.uint8)
        padded[: value.size] = value
        return padded

    def _size_bytes(self, key: str) -> int | None:
        if (document := self._document(key)) is not None:
            return len(document)
        if (found := self._find(key)) is None:
            return None
        tensor, grid, _ = found
        return grid.chunk_length * tensor.dtype.itemsize

    def _document(self, key: str) -> bytes | None:
        """Make the metadata document with a key; ``None`` if the key is not that of a document."""
        if key == _DOCUMENT:
            attributes = {"safetensors_metadata": dict(self.checkpoint.metadata)}
            return _encode({"zarr_format": 3, "node_type": "group", "attributes": attributes})
        name, _, rest = key.partition("/")
        if rest != _DOCUMENT or (tensor := self.checkpoint.tensors.get(name)) is None:
            return None
        return _encode(_array_metadata(tensor, self._grid(tensor)))


def _array_metadata(tensor: TensorInfo, grid: ChunkGrid) -> dict[str, Any]:
    """Make the Zarr v3 metadata of a tensor."""
    codec: dict[str, Any] = {"name": "bytes"}
    if tensor.dtype.itemsize > 1:
        codec["configuration"] = {"endian": "little"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": tensor.shape,
        "data_type": tensor.dtype.zarr_name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": grid.chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": False if tensor.dtype.name == "BOOL" else 0,
        "codecs": [codec],
        "attributes": {"safetensors_dtype": tensor.dtype.name},
    }


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _byte_range(request: ByteRequest | None, size_bytes: int) -> tuple[int, int]:
    """Compute the range of bytes, within a value, that a request asks for."""
    if request is None:
        return 0, size_bytes
    if isinstance(request, RangeByteRequest):
        return request.start, request.end
    if isinstance(request, OffsetByteRequest):
        return request.offset, size_bytes
    if isinstance(request, SuffixByteRequest):
        return max(0, size_bytes - request.suffix), size_bytes
    raise ValueError(f"Unexpected byte_range, got {request}.")
