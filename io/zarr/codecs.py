"""Decoding and encoding single chunks with zarr-python's codecs, on the calling thread.

Chunks of version 2 are decoded by numcodecs alone. Those of version 3 are not: which codecs there are, in what order
they run, transposing, and the index of a shard are zarr-python's to know, and to do that again would take more code,
without the codecs that others register. A pipeline has to be told what it decodes, by `ArraySpec` and the classes of
metadata, for which zarr-python has no public names: hence the imports from ``zarr.core``, and the bound on its release
in ``pyproject.toml``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

import numcodecs.blosc
import numpy as np
from numcodecs.compat import ensure_ndarray
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.codec import CodecPipeline
from zarr.abc.store import ByteGetter, ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.buffer import default_buffer_prototype
from zarr.codecs import ShardingCodec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.metadata.v2 import ArrayV2Metadata
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.registry import get_pipeline_class

import dovetail.io.zarr.dtypes  # noqa: F401 - registers the data types
from dovetail.io.errors import CheckpointError, DovetailError, ZarrError
from dovetail.io.zarr.bounds import bound, bounded
from dovetail.io.zarr.inline import run_here
from dovetail.io.zarr.shards import ShardIndexes, chunk_range, load_index

Fetch = Callable[[str, int, int | None], bytes | None]
"""Reads an object by its key, from one byte up to another; a negative first byte is counted from the end."""

_FAULTS: Final = (ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError, OverflowError, EOFError)


@dataclass(frozen=True)
class V2Codecs:
    """How the chunks of an array of version 2 are decoded; none are written."""

    stages: tuple[Any, ...]
    """The filters and the compressor, of numcodecs, in the order in which they encode, with limits on their output."""
    dtype: np.dtype[Any]
    """Dtype of the elements as stored."""
    order: Literal["C", "F"]
    """Whether elements are stored row by row, or column by column."""

    def decode(self, data: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
        """Decode a chunk; whatever filters and compressors raise is raised."""
        chunk: Any = data
        for codec in reversed(self.stages):
            chunk = codec.decode(chunk)
        stored: NDArray[Any] = ensure_ndarray(chunk).reshape(-1, order="A").view(self.dtype)
        return stored.reshape(shape, order=self.order)


@dataclass(frozen=True)
class Codec:
    """What decodes and encodes the chunks of an array."""

    metadata: ArrayV2Metadata | ArrayV3Metadata
    """The array's metadata, without attributes."""
    codecs: CodecPipeline | V2Codecs
    """Its codecs."""
    spec: ArraySpec
    """Dtype and shape of a decoded object, which is a chunk or a whole shard."""
    chunk_shape: tuple[int, ...]
    """Dimensions of a chunk; if the array has shards, of a chunk within a shard."""
    object_shape: tuple[int, ...]
    """Dimensions of an object."""
    shards: ShardingCodec | None
    """The codec of the shards; None if the array has no shards."""

    def key(self, position: tuple[int, ...]) -> str:
        """Compute the key, within the array, of the object that holds a chunk."""
        return self.metadata.encode_chunk_key(self._object(position))

    def object_key(self, position: tuple[int, ...]) -> str:
        """Compute the key, within the array, of the object at a position in the grid of objects."""
        return self.metadata.encode_chunk_key(position)

    def _object(self, position: tuple[int, ...]) -> tuple[int, ...]:
        sizes = zip(position, self.chunk_shape, self.object_shape, strict=True)
        return tuple(index * chunk // whole for index, chunk, whole in sizes)

    def fill(self) -> NDArray[Any]:
        """Make the chunk that takes the place of a missing one: the fill value, broadcast to the shape of a chunk."""
        dtype = self.spec.dtype.to_native_dtype()
        value = self.spec.fill_value
        if value is None:
            value = self.spec.dtype.default_scalar()
        return np.broadcast_to(np.asarray(value, dtype), self.chunk_shape)

    def decode(self, position: tuple[int, ...], fetch: Fetch, indexes: ShardIndexes) -> NDArray[Any]:
        """Read and decode a chunk.

        Parameters
        ----------
        position
            Position of the chunk in the grid of chunks.
        fetch
            Reads the object that holds the chunk, or a part of it, by its key in the array.
        indexes
            Keeps the indexes of shards from one chunk to the next; they are of this array alone.

        Raises
        ------
        ZarrError
            The stored bytes cannot be decoded to a chunk of the array's shape and dtype.

        """
        key = self.key(position)
        try:
            with np.errstate(all="ignore"):  # sums of differences that are damaged may be infinite
                if self.shards is None:
                    chunk = self._decode_whole(key, fetch)
                else:
                    chunk = self._decode_part(self.shards, position, key, fetch, indexes)
            if chunk is None:
                return self.fill()
            if chunk.shape != self.chunk_shape or chunk.dtype.itemsize != self.spec.dtype.to_native_dtype().itemsize:
                raise ValueError(f"it decodes to {chunk.dtype} of shape {list(chunk.shape)}")
        except DovetailError:
            raise
        except _FAULTS as error:
            raise ZarrError(
                f"chunk {key} cannot be decoded ({error})", "a chunk as its metadata says", "write the checkpoint again"
            ) from error
        except Exception as error:  # compressors raise errors of their own classes
            raise ZarrError(
                f"chunk {key} cannot be decoded ({type(error).__name__}: {error})",
                "a chunk as its metadata says",
                "write the checkpoint again",
            ) from error
        return chunk

    def _decode_whole(self, key: str, fetch: Fetch) -> NDArray[Any] | None:
        data = fetch(key, 0, None)
        if data is None:
            return None
        codecs = self.codecs
        if isinstance(codecs, V2Codecs):
            return codecs.decode(data, self.chunk_shape)
        return self._run(codecs, data, self.spec)

    def _decode_part(
        self, codec: ShardingCodec, position: tuple[int, ...], key: str, fetch: Fetch, indexes: ShardIndexes
    ) -> NDArray[Any] | None:
        counts = tuple(whole // chunk for whole, chunk in zip(self.object_shape, self.chunk_shape, strict=True))
        index = indexes.get(key, lambda: run_here(load_index(codec, _Getter(key, fetch), counts)))
        if index is None:
            return None
        found = chunk_range(index, tuple(item % count for item, count in zip(position, counts, strict=True)))
        if found is None:
            return None
        data = fetch(key, *found)
        if data is None or len(data) != found[1] - found[0]:
            raise ValueError(f"its shard has no bytes {found[0]} to {found[1]}")
        return self._run(codec.codec_pipeline, data, replace(self.spec, shape=self.chunk_shape))

    def _run(self, pipeline: CodecPipeline, data: bytes, spec: ArraySpec) -> NDArray[Any]:
        """Decode a chunk by zarr-python's codecs."""
        buffer = spec.prototype.buffer.from_bytes(data)

        async def decode() -> Any:
            return next(iter(await pipeline.decode([(buffer, spec)])))

        return np.asarray(run_here(decode()).as_numpy_array())

    def encode(self, chunk: NDArray[Any]) -> NDArray[np.uint8]:
        """Encode a whole object: a chunk, or a shard."""
        # Blosc's own threads write blocks in the order in which they end: the bytes would depend on it.
        numcodecs.blosc.use_threads = False
        pipeline, array = self.codecs, self.spec.prototype.nd_buffer.from_numpy_array(chunk)
        assert isinstance(pipeline, CodecPipeline)  # what is written is of version 3

        async def encode() -> Any:
            return next(iter(await pipeline.encode([(array, self.spec)])))

        return np.ascontiguousarray(run_here(encode()).as_numpy_array()).view(np.uint8)


@dataclass(frozen=True)
class _Getter(ByteGetter):
    """The adapter through which zarr-python's sharding codec reads a shard."""

    key: str
    fetch: Fetch

    async def get(self, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        begin: int
        end: int | None
        if byte_range is None:
            begin, end = 0, None
        elif isinstance(byte_range, RangeByteRequest):
            begin, end = byte_range.start, byte_range.end
        elif isinstance(byte_range, OffsetByteRequest):
            begin, end = byte_range.offset, None
        elif isinstance(byte_range, SuffixByteRequest):
            begin, end = -byte_range.suffix, None
        data = self.fetch(self.key, begin, end)
        return None if data is None else prototype.buffer.from_bytes(data)


@lru_cache(maxsize=4096)
def open_codec(text: bytes, chunk_shape: tuple[int, ...], object_shape: tuple[int, ...], *, sharded: bool) -> Codec:
    """Build the codecs of an array from its checked metadata; arrays with equal metadata share them.

    Raises
    ------
    ZarrError
        zarr-python refuses the metadata.

    """
    document = json.loads(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning that other libraries lack a codec concerns writers only
            metadata: ArrayV2Metadata | ArrayV3Metadata
            codecs: CodecPipeline | V2Codecs
            shards = None
            if document["zarr_format"] == 2:
                metadata = ArrayV2Metadata.from_dict(document)
                dtype = metadata.dtype.to_native_dtype()
                stages = [*(metadata.filters or ()), *([metadata.compressor] if metadata.compressor else [])]
                limited = bounded(stages, chunk_shape, dtype.itemsize)
                codecs = V2Codecs(tuple(limited), dtype, metadata.order)
            else:
                metadata = ArrayV3Metadata.from_dict(document)
                codecs = get_pipeline_class().from_codecs(metadata.codecs)
                shards = next((codec for codec in metadata.codecs if isinstance(codec, ShardingCodec)), None)
            config = ArrayConfig(order=document.get("order", "C"), write_empty_chunks=True)
            spec = metadata.get_chunk_spec(tuple(0 for _ in chunk_shape), config, default_buffer_prototype())
            if isinstance(metadata, ArrayV3Metadata):
                bound(metadata.codecs, chunk_shape, spec.dtype.to_native_dtype().itemsize)
            if sharded != (shards is not None):
                raise TypeError("zarr-python sees other shards in it")
            metadata.encode_chunk_key(tuple(0 for _ in chunk_shape))
    except CheckpointError:
        raise
    except Exception as error:  # codecs raise all kinds of errors over their configuration
        raise ZarrError(
            f"its metadata is refused ({type(error).__name__}: {error})", "metadata of the format", "write it again"
        ) from error
    return Codec(metadata, codecs, spec, chunk_shape, object_shape, shards)


def encode_object(
    text: bytes, chunk_shape: tuple[int, ...], object_shape: tuple[int, ...], chunk: NDArray[Any]
) -> NDArray[np.uint8]:
    """Encode one object, a chunk or a shard, of the array with the metadata `text`."""
    codec = open_codec(text, chunk_shape, object_shape, sharded=chunk_shape != object_shape)
    return codec.encode(chunk)
