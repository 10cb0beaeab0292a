"""Keeping compressed chunks from taking more memory than the array's metadata allows.

A decompressor allocates as much memory as the compressed bytes claim to need, so that a hostile chunk of a few
kilobytes could take all memory. Blosc, LZ4 and Zstandard state the size in a header, which is checked here first; gzip,
zlib, bz2 and lzma do not, and are decompressed only up to a limit.
"""

from __future__ import annotations

import bz2
import lzma
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zarr.codecs import ShardingCodec

_SLACK_BYTES: Final = 2**16
"""Most bytes that the checksums and headers of the inner codecs may add to a chunk."""

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK_BYTES: Final = 2**17  # the most that a block may hold

_STREAMS: Final = ("gzip", "zlib", "bz2", "lzma")
_NAMES: Final = (*_STREAMS, "blosc", "zstd", "lz4")
_COMPRESSORS: Final = ("_zstd_codec", "_blosc_codec", "_gzip_codec", "_codec")  # where zarr-python keeps them


def claimed_bytes(name: str, data: bytes | memoryview) -> int | None:
    """Read from compressed data the size that it claims to decompress to; ``None`` if the format states no size.

    Parameters
    ----------
    name
        Name of the codec.
    data
        The compressed bytes.

    Raises
    ------
    ValueError
        The data is not in the format of the codec.

    """
    if name == "blosc":
        if len(data) < 16:
            raise ValueError("it is too short for Blosc")
        return int(struct.unpack_from("<I", data, 4)[0])
    if name == "zstd":
        return _zstd_content_bytes(data)
    if name == "lz4":
        if len(data) < 4:
            raise ValueError("it is too short for LZ4")
        return int(struct.unpack_from("<I", data)[0])
    return None


def _zstd_content_bytes(data: bytes | memoryview) -> int:
    """Read the content size of a Zstandard frame, or estimate it: RFC 8878, sections 3.1.1.1 and 3.1.1.2."""
    if len(data) < 6 or bytes(data[:4]) != _ZSTD_MAGIC:
        raise ValueError("it is not a Zstandard frame")
    descriptor = data[4]
    single = bool(descriptor & 0x20)
    position = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    if size:
        value = int.from_bytes(data[position : position + size], "little")
        return value + 256 if size == 2 else value
    most, last = 0, False
    while not last and position + 3 <= len(data):
        header = int.from_bytes(data[position : position + 3], "little")
        last, kind, length = bool(header & 1), header >> 1 & 3, header >> 3
        most += _ZSTD_BLOCK_BYTES if kind == 2 else length
        position += 3 + (1 if kind == 1 else length)
    return most // 4  # a quarter, because blocks are often much smaller than the most that they may hold


def limit_bytes(chunk_shape: Sequence[int], itemsize: int) -> int:
    """Compute the most bytes to which a compressed chunk may decompress."""
    size = math.prod(chunk_shape) * itemsize
    return size + size // 64 + _SLACK_BYTES


@dataclass(frozen=True)
class Bounded:
    """A compressor of numcodecs that refuses to decompress to more than a limit."""

    codec: Any
    """The compressor."""
    limit_bytes: int
    """Most bytes that `decode` returns."""

    def encode(self, buffer: Any) -> Any:
        """Compress a buffer."""
        return self.codec.encode(buffer)

    def decode(self, buffer: Any, out: Any = None) -> Any:
        """Decompress a buffer.

        Raises
        ------
        ValueError
            The buffer decompresses to more than the limit, or claims to, or is not in the compressor's format.

        """
        data = memoryview(buffer).cast("B")
        claim = claimed_bytes(self.codec.codec_id, data)
        if claim is None:
            return self._decompress(data) if self.codec.codec_id in _STREAMS else self.codec.decode(buffer)
        if claim > self.limit_bytes:
            raise ValueError(f"it claims {claim} bytes decompressed, instead of at most {self.limit_bytes}")
        return self.codec.decode(buffer)

    def _decompress(self, data: memoryview) -> bytes:
        parts, total = [], 0
        while data.nbytes:  # the data may be several streams, one after another
            decompressor = self._decompressor()
            part = decompressor.decompress(data, self.limit_bytes - total + 1)
            total += len(part)
            if total > self.limit_bytes:
                raise ValueError(f"it decompresses to more than {self.limit_bytes} bytes")
            if not decompressor.eof:
                raise ValueError("it ends too early")
            parts.append(part)
            data = memoryview(decompressor.unused_data.lstrip(b"\0"))  # gzip allows zeros between streams
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _decompressor(self) -> Any:
        name = self.codec.codec_id
        if name == "bz2":
            return bz2.BZ2Decompressor()
        if name == "lzma":
            config = self.codec.get_config()
            raw = config.get("format") == lzma.FORMAT_RAW
            form = config.get("format") if raw else lzma.FORMAT_AUTO
            return lzma.LZMADecompressor(form, filters=config.get("filters") if raw else None)
        return zlib.decompressobj(31 if name == "gzip" else 15)


def bound(codecs: Iterable[Any], chunk_shape: Sequence[int], itemsize: int) -> None:
    """Replace the compressors among the codecs of an array, in shards too, by ones with a limit."""
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            bound(codec.codecs, chunk_shape, itemsize)
            continue
        for name in _COMPRESSORS:
            if hasattr(type(codec), name) and getattr(getattr(codec, name), "codec_id", None) in _NAMES:
                codec.__dict__[name] = Bounded(getattr(codec, name), limit_bytes(chunk_shape, itemsize))


def bounded(compressor: Any, chunk_shape: Sequence[int], itemsize: int) -> Any:
    """Give the compressor of a Zarr v2 array a limit; a codec that is no compressor is returned unchanged."""
    known = getattr(compressor, "codec_id", None) in _NAMES
    return Bounded(compressor, limit_bytes(chunk_shape, itemsize)) if known else compressor
