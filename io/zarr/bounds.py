"""Keeping stored chunks from taking more memory than the array's metadata allows.

A decompressor makes as many bytes as the compressed data says, so that a hostile chunk of a hundred bytes could take
all memory. But the shape of a chunk says how many bytes every stage of its decoding has to make: those of the chunk at
the outermost stage, and below that what the filters in between add. Each stage is held to that number here.
"""

from __future__ import annotations

import bz2
import lzma
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.io.zarr.blosc import frame_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SLACK_BYTES: Final = 2**16
"""Most bytes that a compressor may add to data that it cannot make smaller, besides one in `_SLACK_SHARE`."""
_SLACK_SHARE: Final = 64

_CHECKSUM_BYTES: Final = 4
_CHECKSUMS: Final = ("adler32", "crc32", "crc32c", "fletcher32")

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"

_STREAMS: Final = ("gzip", "zlib", "bz2", "lzma")
_COMPRESSORS: Final = (*_STREAMS, "blosc", "zstd", "lz4")
_HELD_AS: Final = ("_zstd_codec", "_blosc_codec", "_gzip_codec", "_codec")  # where zarr-python keeps a compressor

_STEP_BYTES: Final = 2**18
"""Most bytes that a decompressor of a stream is given at once."""
_PIECE_BYTES: Final = 2**20
"""Most bytes that it gives at once."""
_MOST_STREAMS: Final = 16
"""Most streams in a chunk, besides one for each KiB: a chunk of empty ones would take very long."""
_LZMA_BYTES: Final = 2**28
"""Most memory that the dictionary of LZMA may claim; the strongest preset claims a quarter of it."""


def claimed_bytes(name: str, data: memoryview) -> int | None:
    """Read from compressed data the size to which it claims to decompress; ``None`` if it states no size.

    Parameters
    ----------
    name
        Name of the codec: ``blosc``, ``zstd`` or ``lz4``.
    data
        The compressed bytes.

    Raises
    ------
    ValueError
        The data is not in the format of the codec.

    """
    if name == "blosc":
        return frame_bytes(data)
    if name == "zstd":
        return _zstd_content_bytes(data)
    if len(data) < 4:
        raise ValueError("it is too short for LZ4")
    return int(struct.unpack_from("<I", data)[0])


def _zstd_content_bytes(data: memoryview) -> int | None:
    """Read the content size from the header of a Zstandard frame: RFC 8878, sections 3.1.1.1 and 3.1.1.2."""
    if len(data) < 6 or bytes(data[:4]) != _ZSTD_MAGIC:
        raise ValueError("it is not a Zstandard frame")
    descriptor = data[4]
    single = bool(descriptor & 0x20)
    position = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    if not size:
        return None
    value = int.from_bytes(data[position : position + size], "little")
    return value + 256 if size == 2 else value


@dataclass(frozen=True)
class Bounded:
    """A compressor of numcodecs that refuses to decompress to more than its place in a chunk's codecs allows."""

    codec: Any
    """The compressor."""
    limit_bytes: int
    """Most bytes that `decode` returns."""
    exact: bool
    """Whether it has to return just as many: it has, unless what it returns is compressed once more."""

    def encode(self, buffer: Any) -> Any:
        """Compress a buffer."""
        return self.codec.encode(buffer)

    def decode(self, buffer: Any, out: Any = None) -> Any:
        """Decompress a buffer, into `out` where that is given and the compressor is Blosc, Zstandard or LZ4.

        Raises
        ------
        ValueError
            The buffer decompresses to more than the limit or to another size than it must, or claims to, or is not in
            the compressor's format.

        """
        data = memoryview(buffer).cast("B")
        name = self.codec.codec_id
        if name in _STREAMS:
            return self._decompressed(data)
        size = claimed_bytes(name, data)
        if size is None and self.exact:
            size = self.limit_bytes
        if size is None:
            raise ValueError("it does not say to how many bytes it decompresses, and they are compressed again")
        self._check_size(size, "it claims {} bytes decompressed")
        if name == "blosc" and out is None:  # checked as a whole, and a little faster into memory of its own
            return self.codec.decode(buffer)
        return self.codec.decode(buffer, out=np.empty(size, np.uint8) if out is None else out)

    def _check_size(self, size: int, what: str) -> None:
        if size > self.limit_bytes or (self.exact and size != self.limit_bytes):
            most = "" if self.exact else "at most "
            raise ValueError(f"{what.format(size)}, instead of {most}{self.limit_bytes}")

    def _decompressed(self, data: memoryview) -> NDArray[np.uint8]:
        """Decompress one stream after another, in steps, so that nothing is held twice."""
        out = np.empty(self.limit_bytes, np.uint8)
        place = total = streams = 0
        while place < data.nbytes:
            stream, rest = self._stream(), b""
            while not stream.eof:
                step: bytes | memoryview = rest
                if getattr(stream, "needs_input", not rest):
                    step = data[place : place + _STEP_BYTES]
                    place += len(step)
                part = stream.decompress(step, _PIECE_BYTES)
                if not part and not step:
                    raise ValueError("it ends too early")
                rest = getattr(stream, "unconsumed_tail", b"")  # zlib gives back what it had no room for
                if total + len(part) > self.limit_bytes:
                    raise ValueError(f"it decompresses to more than {self.limit_bytes} bytes")
                out[total : total + len(part)] = np.frombuffer(part, np.uint8)
                total += len(part)
            place = _skip_zeros(data, place - len(stream.unused_data))  # gzip allows zeros between streams
            if (streams := streams + 1) > _MOST_STREAMS + total // 1024:
                raise ValueError(f"it holds more than {streams - 1} streams in {total} bytes")
        self._check_size(total, "it decompresses to {} bytes")
        return out[:total]

    def _stream(self) -> Any:
        name = self.codec.codec_id
        if name == "bz2":
            return bz2.BZ2Decompressor()
        if name == "lzma":
            config = self.codec.get_config()
            if config.get("format") == lzma.FORMAT_RAW:
                return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=config.get("filters"))
            return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_LZMA_BYTES)
        return zlib.decompressobj(31 if name == "gzip" else 15)


def _skip_zeros(data: memoryview, place: int) -> int:
    """Find the next byte that is not zero."""
    while place < data.nbytes:
        step = bytes(data[place : place + _STEP_BYTES])
        if rest := step.lstrip(b"\0"):
            return place + len(step) - len(rest)
        place += len(step)
    return place


@dataclass(slots=True)
class _Stage:
    """What the codecs of a chunk have made of it so far, from the chunk on, as they encode."""

    size_bytes: int
    """The most bytes that this can be."""
    exact: bool = True
    """Whether it is always as many."""

    def through(self, codec: Any) -> Any:
        """Go on through a codec of numcodecs; give the codec, or what takes its place."""
        name = codec.codec_id
        if name in _CHECKSUMS:
            self.size_bytes += _CHECKSUM_BYTES
        elif name == "delta":
            self.size_bytes = self.size_bytes // codec.dtype.itemsize * codec.astype.itemsize
        elif name in _COMPRESSORS:
            bounded = Bounded(codec, self.size_bytes, self.exact)
            self.size_bytes += self.size_bytes // _SLACK_SHARE + _SLACK_BYTES
            self.exact = False
            return bounded
        return codec


def bound(codecs: Iterable[Any], chunk_shape: Sequence[int], itemsize: int) -> None:
    """Give the compressors among the codecs of an array of version 3 limits, in shards too."""
    from zarr.codecs import Crc32cCodec, ShardingCodec

    stage = _Stage(math.prod(chunk_shape) * itemsize)
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            bound(codec.codecs, chunk_shape, itemsize)
        elif isinstance(codec, Crc32cCodec):  # it holds no codec of numcodecs, which would know its size
            stage.size_bytes += _CHECKSUM_BYTES
        for name in _HELD_AS:
            if hasattr(type(codec), name):
                codec.__dict__[name] = stage.through(getattr(codec, name))


def bounded(codecs: Iterable[Any], chunk_shape: Sequence[int], itemsize: int) -> list[Any]:
    """Give the compressors among the filters and the compressor of an array of version 2 limits."""
    stage = _Stage(math.prod(chunk_shape) * itemsize)
    return [stage.through(codec) for codec in codecs]
