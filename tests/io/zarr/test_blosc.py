"""Blosc frames: those that c-blosc writes are accepted, and those that lie are refused before it reads them."""

from __future__ import annotations

import struct

import numcodecs
import numpy as np
import pytest

from dovetail.io.zarr.blosc import frame_bytes

SIZE = 40_000


def frame(name: str = "zstd", *, itemsize: int = 4, shuffle: int = 1, size: int = SIZE, block: int = 4096) -> bytearray:
    data = np.arange(-(-size // 4), dtype=np.float32).view(np.uint8)[:size]
    return bytearray(numcodecs.Blosc(name, 5, shuffle, block, typesize=itemsize).encode(data))


def changed(at: int, form: str, value: int, name: str = "zstd", **options: int) -> bytearray:
    """Make a frame, and write a number into it."""
    found = frame(name, **options)
    struct.pack_into(form, found, at, value)
    return found


@pytest.mark.parametrize("name", ["blosclz", "lz4", "lz4hc", "zlib", "zstd"])
@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_what_c_blosc_writes(name: str, shuffle: int) -> None:
    """Every compressor with every shuffle, element size, block size and length is taken for what it holds."""
    for itemsize in (1, 2, 3, 4, 7, 8, 16, 17, 100, 255):
        for size in (1, 15, 127, 128, 200, 254, 4095, 4096, 4097, SIZE):
            for block in (0, 128, 4096):
                found = frame(name, itemsize=itemsize, shuffle=shuffle, size=size, block=block)
                assert size == frame_bytes(memoryview(found)), (itemsize, size, block)


def test_what_follows_a_frame_does_not_matter() -> None:
    """Bytes after a frame are none of its own."""
    assert SIZE == frame_bytes(memoryview(bytes(frame()) + b"more"))


BLOCK = 4096
FIRST_STREAM = 16 + 4 * -(-SIZE // BLOCK)
LIES = {
    "nothing": (b"", "too short"),
    "half a header": (bytes(frame()[:15]), "too short"),
    "version": (changed(0, "<B", 3), "version 3"),
    "version of the streams": (changed(1, "<B", 2), "version 2"),
    "reserved flag": (changed(2, "<B", frame()[2] | 8), "flags"),
    "both shuffles": (changed(2, "<B", 5), "flags"),
    "snappy": (changed(2, "<B", 2 << 5), "the way 2"),
    "unknown compressor": (changed(2, "<B", 7 << 5), "the way 7"),
    "no element": (changed(3, "<B", 0), "elements of 0"),
    "no bytes": (changed(4, "<I", 0), "claims 0 bytes"),
    "negative size": (changed(4, "<I", 2**31 + 5), "claims 2147483653"),
    "no block": (changed(8, "<I", 0), "blocks of 0"),
    "block larger than all": (changed(8, "<I", SIZE + 1), "blocks of 40001"),
    "tiny blocks": (changed(8, "<I", 1), "40000 blocks"),
    "more blocks than positions": (changed(8, "<I", 160, size=400, block=400), "outside it|length that is not|overlap"),
    "longer than it is": (changed(12, "<I", 2**30), "claims 1073741824 bytes"),
    "longer by one": (changed(12, "<I", len(frame()) + 1), "claims"),
    "shorter than a header": (changed(12, "<I", 15), "claims 15 bytes"),
    "cut short": (bytes(frame()[:-1]), "claims"),
    "ends before the positions": (changed(12, "<I", FIRST_STREAM - 1), "before the positions"),
    "block before it": (changed(16, "<i", -8), "outside it"),
    "block after it": (changed(16, "<i", 2**31 - 1), "outside it"),
    "block at its end": (changed(16, "<i", len(frame()) - 2), "outside it"),
    "the same block twice": (changed(20, "<I", FIRST_STREAM), "overlap"),
    "empty stream": (changed(FIRST_STREAM, "<I", 0), "length that is not"),
    "negative stream": (changed(FIRST_STREAM, "<i", -1), "length that is not"),
    "stream longer than its block": (changed(FIRST_STREAM, "<I", BLOCK + 1), "length that is not"),
    "copied, and shorter": (changed(2, "<B", 2), "instead of 40000"),
}


@pytest.mark.parametrize("case", LIES)
def test_lies(case: str) -> None:
    """Every number that a frame states is compared with the bytes that are there."""
    data, text = LIES[case]
    with pytest.raises(ValueError, match=text):
        frame_bytes(memoryview(data))


def test_streams_that_do_not_divide_a_block() -> None:
    """A block that is split into streams must be made of them, or c-blosc would leave bytes unwritten."""
    found = frame("blosclz", itemsize=4, block=4096)
    assert not found[2] & 16, "it is split"
    found[3] = 3
    with pytest.raises(ValueError, match="do not divide"):
        frame_bytes(memoryview(found))


def test_a_long_stream_of_blosclz() -> None:
    """BloscLZ's decoder adds up lengths in 32 bits, which a stream of more than 8 MiB could overflow."""
    size = 2**24
    header = struct.pack("<BBBBIIIi", 2, 1, 16, 1, size, size, 20 + 4 + size - 1, 20)
    data = header + (size - 1).to_bytes(4, "little") + b"\xff" * (size - 1)
    with pytest.raises(ValueError, match="not from 1 to 8388608"):
        frame_bytes(memoryview(data))
    lz4 = bytearray(data)
    lz4[2] |= 1 << 5
    assert size == frame_bytes(memoryview(lz4)), "the others may have such streams"
