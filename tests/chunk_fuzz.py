"""A seeded fuzzer of stored Zarr chunks: every codec, in both formats, with damage of every kind.

The codecs are compiled code, which can kill the process. The driver therefore runs in a process of its own, and writes
every case to a file before it tries it: ``python -m tests.chunk_fuzz SEED CASES FILE``.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np

from dovetail.io.errors import DovetailError
from dovetail.io.zarr.codecs import open_codec
from dovetail.io.zarr.document import check_document
from dovetail.io.zarr.shards import ShardIndexes
from tests.fuzz import forget_peak, peak_resident_bytes

MOST_GROWTH_BYTES = 64 * 2**20
"""Most memory that one damaged chunk may take: what the largest chunk here allows, with room."""

_SHAPE = (192, 112)
_EXTREMES = (0, 1, 2, 3, 7, 8, 15, 16, 17, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class Stored:
    """An array's document with one good chunk of it."""

    name: str
    """The codecs, for messages."""
    document: dict[str, Any]
    """Metadata of the array."""
    data: bytes
    """The stored chunk."""
    expected: bytes
    """What it decodes to."""

    def decode(self, data: bytes) -> bytes:
        """Decode other bytes in the place of the chunk."""
        checked = check_document(self.document, self.document["zarr_format"], "the document")
        assert checked is not None
        shapes = checked.chunk_shape, checked.object_shape
        codec = open_codec(checked.text, *shapes, sharded=checked.sharded)

        def fetch(key: str, begin: int, end: int | None) -> bytes:
            return data[begin:end]

        return codec.decode((0,) * len(_SHAPE), fetch, ShardIndexes()).tobytes()


def _tensor(kind: str) -> Any:
    chance = np.random.default_rng(0)
    values = chance.normal(size=_SHAPE).astype(kind) if kind[0] == "f" else chance.integers(0, 90, _SHAPE).astype(kind)
    values[:16] = 0  # so that runs of equal bytes are among what is compressed
    return values


_PLAIN = ({"id": "zstd", "level": 1}, {"id": "lz4"}, {"id": "gzip"}, {"id": "zlib"}, {"id": "bz2"}, {"id": "lzma"})
_FILTERS = (
    [{"id": "shuffle", "elementsize": 4}],
    [{"id": "delta", "dtype": "<f4"}],
    [{"id": "delta", "dtype": "<i4", "astype": "<i2"}],
    [{"id": "crc32"}, {"id": "adler32"}, {"id": "crc32c"}, {"id": "fletcher32"}],
    [{"id": "bz2"}, {"id": "lzma"}],
    [{"id": "shuffle", "elementsize": 4}, {"id": "zstd"}],
)


def _blosc() -> Iterator[dict[str, Any]]:
    for name in ("lz4", "lz4hc", "blosclz", "zlib", "zstd"):
        for shuffle in (0, 1, 2):
            yield {"id": "blosc", "cname": name, "clevel": 5, "shuffle": shuffle, "blocksize": 4096}
    yield {"id": "blosc", "cname": "lz4", "clevel": 0, "shuffle": 0, "blocksize": 0}


def _version_2() -> Iterator[Stored]:
    for compressor in (None, *_PLAIN, *_blosc()):
        yield from _stored_2(compressor, [], "<f4")
    for size in (1, 2, 3, 5, 8, 13, 16, 17, 40, 255):
        for name in ("lz4", "blosclz"):
            chosen = {"id": "blosc", "cname": name, "clevel": 5, "shuffle": size % 3, "blocksize": 0, "typesize": size}
            yield from _stored_2(chosen, [], "<f4")
    for filters in _FILTERS:
        for compressor in (None, _PLAIN[0], {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}):
            yield from _stored_2(compressor, filters, "<i4" if "<i4" in str(filters) else "<f4")


def _stored_2(compressor: dict[str, Any] | None, filters: list[dict[str, Any]], kind: str) -> Iterator[Stored]:
    tensor = _tensor(kind)
    chunk: Any = tensor
    for config in (*filters, *([compressor] if compressor else [])):
        chunk = numcodecs.get_codec(dict(config)).encode(chunk)
    kept = {key: value for key, value in (compressor or {}).items() if key != "typesize"} or None
    document = {
        "zarr_format": 2, "shape": list(_SHAPE), "chunks": list(_SHAPE), "dtype": kind, "compressor": kept,
        "fill_value": 0, "filters": filters or None, "order": "C",
    }  # fmt: skip
    yield Stored(f"v2 {compressor} {filters}", document, np.asarray(memoryview(chunk)).tobytes(), tensor.tobytes())


def _version_3() -> Iterator[Stored]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    checked = {"name": "crc32c"}
    choices: list[list[dict[str, Any]]] = [
        [little],
        [little, checked],
        [little, {"name": "zstd", "configuration": {"level": 1, "checksum": True}}, checked],
        [little, {"name": "gzip", "configuration": {"level": 1}}],
        [{"name": "transpose", "configuration": {"order": [1, 0]}}, little, {"name": "zstd", "configuration": {}}],
    ]
    for name in ("lz4", "blosclz", "zstd"):
        for shuffle in ("noshuffle", "shuffle", "bitshuffle"):
            settings = {"cname": name, "clevel": 5, "shuffle": shuffle, "typesize": 4, "blocksize": 4096}
            choices.append([little, {"name": "blosc", "configuration": settings}])
    for name, settings in (("lz4", {}), ("bz2", {}), ("zlib", {}), ("lzma", {}), ("shuffle", {"elementsize": 4})):
        choices.append([little, {"name": f"numcodecs.{name}", "configuration": settings}])
    for codecs in list(choices):
        inner = {"chunk_shape": [96, 56], "codecs": codecs, "index_codecs": [little, checked]}
        choices.append([{"name": "sharding_indexed", "configuration": inner}])
    for codecs in choices:
        document = {
            "zarr_format": 3, "node_type": "array", "shape": list(_SHAPE), "data_type": "float32", "fill_value": 0,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(_SHAPE)}},
            "chunk_key_encoding": {"name": "default"}, "codecs": codecs, "attributes": {},
        }  # fmt: skip
        found = check_document(document, 3, "the document")
        assert found is not None
        codec = open_codec(found.text, found.chunk_shape, found.object_shape, sharded=found.sharded)
        tensor = _tensor("f4")
        first = tensor[: found.chunk_shape[0], : found.chunk_shape[1]]
        yield Stored(f"v3 {codecs}", document, codec.encode(tensor).tobytes(), first.tobytes())


def stored_chunks() -> list[Stored]:
    """Make good chunks of every codec."""
    return [*_version_2(), *_version_3()]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Damage a stored chunk in one to three ways, the first bytes more often than the others."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        kind, size = chance.randrange(9), len(out)
        place = chance.randrange(min(size, chance.choice((4, 16, 64, 10**9)))) if size else 0
        if kind < 2 and size:
            out[place] ^= 1 << chance.randrange(8)
        elif kind < 4 and size:
            out[place] = chance.choice((0, 1, 2, 127, 128, 254, 255, chance.randrange(256)))
        elif kind < 6:
            place -= place % chance.choice((1, 4))
            value = chance.choice((*_EXTREMES, size, size - 16, size + 1, chance.getrandbits(32)))
            out[place : place + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
        elif kind == 6:
            del out[chance.choice((place, size - chance.randrange(size + 1))) :]
        elif kind == 7:
            out += chance.choice((bytes(chance.randrange(200)), chance.randbytes(40), bytes(out)))
        else:
            out[place:place] = chance.choice((bytes([255]) * 300, bytes(40), chance.randbytes(9)))
    return bytes(out)


def main(seed: int, cases: int, path: Path) -> None:
    """Try damaged chunks, one after another; print how many were decoded, and how many refused."""
    chunks = stored_chunks()
    for chunk in chunks:
        assert chunk.decode(chunk.data) == chunk.expected, f"{chunk.name}: a good chunk"
    decoded = refused = 0
    with path.open("wb", buffering=0) as file:
        before = forget_peak()
        for number in range(cases):
            chance = random.Random(seed << 32 | number)
            chunk = chance.choice(chunks)
            data = damaged(chunk.data, chance)
            file.seek(0)
            file.write(json.dumps([number, chunk.name, data.hex()]).encode() + b"\n")
            file.truncate()
            try:
                found = chunk.decode(data)
            except DovetailError:
                refused += 1
            else:
                assert len(found) == len(chunk.expected), f"{seed}/{number} {chunk.name}: {len(found)} bytes"
                decoded += 1
            grown = peak_resident_bytes() - before if number % 64 == 63 else 0
            assert grown < MOST_GROWTH_BYTES, f"{seed}/{number} or one of 63 before takes {grown} bytes"
    print(f"{decoded} decoded, {refused} refused")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
