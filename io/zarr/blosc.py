"""Checking Blosc frames before c-blosc decodes them.

c-blosc is told where a frame begins, but not where it ends, and believes the lengths that the frame states: a frame
that lies makes it read memory that is not the frame's. It also leaves a part of its output unwritten if a block's
streams do not divide the block. Here every length that it will use is checked against the bytes that are there. What is
then left to it is to decode each stream of a block into that stream's place, within bounds that it does know.

The layout is that of c-blosc 1 (its ``README_CHUNK_FORMAT.rst``): a header of 16 bytes, the position of every block,
and the blocks. A block is one stream, or as many as an element has bytes; each stream follows its length. All numbers
are 32-bit, little endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

MAX_FRAME_BYTES: Final = 2**31 - 1 - 16
"""Most bytes to which a frame can decompress, as c-blosc counts in signed 32-bit numbers."""

_HEADER: Final = struct.Struct("<BBBBIII")
_NUMBER: Final = struct.Struct("<i")
_FORMAT_VERSION: Final = 2
_BLOSCLZ: Final = 0
_STREAM_FORMATS: Final = (_BLOSCLZ, 1, 3, 4)  # BloscLZ, LZ4, zlib and Zstandard; 2 was Snappy
_STREAM_VERSION: Final = 1

_SHUFFLE, _COPIED, _BITSHUFFLE, _RESERVED, _WHOLE_BLOCKS = (1 << bit for bit in range(5))
_MAX_STREAMS: Final = 16
_LEAST_STREAM_BYTES: Final = 128

_FEW_BLOCKS: Final = 256
_LEAST_BLOCK_BYTES: Final = 64
"""c-blosc makes no smaller blocks, but where an element is larger than all the data, which then has few blocks."""

_MANY_BLOCKS: Final = 2**16
_SMALL_BLOCK_BYTES: Final = 4096
"""More and smaller blocks than these would take long to check; those that c-blosc makes of itself are larger."""

_MAX_BLOSCLZ_BYTES: Final = 2**23
"""The decoder of BloscLZ adds up to 255 for each byte of a stream to a signed 32-bit number: more would overflow it."""


def frame_bytes(data: memoryview) -> int:
    """Check a Blosc frame, and give the size to which it decompresses.

    Parameters
    ----------
    data
        The frame; bytes may follow it.

    Returns
    -------
    int
        At least 1 and at most `MAX_FRAME_BYTES`.

    Raises
    ------
    ValueError
        c-blosc would refuse the frame, or read or leave unwritten what it should not.

    """
    if data.nbytes < _HEADER.size:
        raise ValueError("it is too short for Blosc")
    version, stream_version, flags, itemsize, size, block, length = _HEADER.unpack_from(data)
    if version != _FORMAT_VERSION:
        raise ValueError(f"it is of version {version} of Blosc, instead of {_FORMAT_VERSION}")
    if not 0 < size <= MAX_FRAME_BYTES or not 0 < block <= size or not itemsize:
        raise ValueError(f"its Blosc header claims {size} bytes, blocks of {block} and elements of {itemsize}")
    if not _HEADER.size <= length <= data.nbytes:
        raise ValueError(f"its Blosc header claims {length} bytes, instead of {data.nbytes}")
    if flags & _RESERVED or (flags & _SHUFFLE and flags & _BITSHUFFLE):
        raise ValueError(f"its Blosc header has the flags {flags:#04x}")
    count = -(-size // block)
    if count > max(_MANY_BLOCKS, size // _SMALL_BLOCK_BYTES) or (block < _LEAST_BLOCK_BYTES and count > _FEW_BLOCKS):
        raise ValueError(f"it has {count} blocks of {block} bytes")
    if flags & _COPIED:
        if length != size + _HEADER.size:
            raise ValueError(f"it holds {length - _HEADER.size} bytes, instead of {size}")
        return int(size)
    if (compressor := flags >> 5) not in _STREAM_FORMATS or stream_version != _STREAM_VERSION:
        raise ValueError(f"it is compressed in the way {compressor}, version {stream_version}, unknown to c-blosc")
    _check_blocks(data[:length], flags, itemsize, size, block)
    return int(size)


def _check_blocks(frame: memoryview, flags: int, itemsize: int, size: int, block: int) -> None:
    """Check the lengths of all streams, those of whole blocks and that of a shorter last block."""
    count, rest = -(-size // block), size % block
    first = _HEADER.size + 4 * count
    if frame.nbytes < first:
        raise ValueError(f"it ends before the positions of its {count} blocks")
    split = not flags & _WHOLE_BLOCKS and itemsize <= _MAX_STREAMS and block // itemsize >= _LEAST_STREAM_BYTES
    streams = itemsize if split else 1
    if block % streams:
        raise ValueError(f"its {streams} streams do not divide a block of {block} bytes")
    longest = _MAX_BLOSCLZ_BYTES if flags >> 5 == _BLOSCLZ else size
    starts = struct.unpack_from(f"<{count}i", frame, _HEADER.size)
    whole = starts[:-1] if rest else starts
    used = _stream_bytes(frame, whole, streams, min(longest, block // streams))
    if rest:
        used += _stream_bytes(frame, starts[-1:], 1, min(longest, rest))
    if used > frame.nbytes - first:
        raise ValueError("its blocks overlap")


def _stream_bytes(frame: memoryview, starts: Sequence[int], streams: int, most: int) -> int:
    """Follow blocks from stream to stream; give the bytes that they take in the frame."""
    used, last, read = 0, frame.nbytes - 4, _NUMBER.unpack_from
    for place in starts:
        begin = place
        for _ in range(streams):
            if not 0 <= place <= last:
                raise ValueError("a block lies outside it")
            (length,) = read(frame, place)
            place += 4 + length
            if not 1 <= length <= most or place > frame.nbytes:
                raise ValueError(f"a stream has a length that is not from 1 to {most}, or ends outside it")
        used += place - begin
    return used
