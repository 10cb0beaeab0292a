"""The memory that a chunk takes is bounded by its shape, whatever its compressed bytes claim or make."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

from dovetail.io import read_checkpoint
from dovetail.io.errors import ZarrError
from dovetail.io.zarr.bounds import bounded
from dovetail.io.zarr.place import FolderPlace
from tests.fuzz import forget_peak, peak_resident_bytes
from tests.io.zarr.test_document import SHARDS, V2, V3, grid, write

BOMB = bytes(2**26)
MOST_BYTES = 24 * 2**20
"""Room for what decompressors take of their own; a bomb would take 64 MiB and more."""

PART = np.arange(6, dtype=np.float32).tobytes()
XZ = lzma.compress(BOMB, preset=0)
BZ2 = bz2.compress(BOMB, 1)


def _zstd_without_size() -> bytes:
    repeated = b"".join((0x1FFFF << 3 | 2 | (number == 999)).to_bytes(3, "little") + b"\0" for number in range(1000))
    return b"\x28\xb5\x2f\xfd\x00\x58" + repeated


BOMBS: dict[str, tuple[list[str], bytes]] = {
    "gzip": (["gzip"], gzip.compress(BOMB, 1)),
    "gzip, the second stream": (["gzip"], gzip.compress(PART) + gzip.compress(BOMB, 1)),
    "zlib": (["zlib"], zlib.compress(BOMB, 1)),
    "bz2": (["bz2"], BZ2),
    "lzma": (["lzma"], XZ),
    "zstd": (["zstd"], numcodecs.Zstd(1).encode(BOMB)),
    "zstd, the second frame": (["zstd"], bytes(numcodecs.Zstd(1).encode(PART)) + numcodecs.Zstd(1).encode(BOMB)),
    "zstd without a size": (["zstd"], _zstd_without_size()),
    "zstd without a size, the second frame": (["zstd"], bytes(numcodecs.Zstd(1).encode(PART)) + _zstd_without_size()),
    "lz4": (["lz4"], numcodecs.LZ4().encode(BOMB)),
    "blosc": (["blosc"], numcodecs.Blosc("zstd").encode(BOMB)),
    "bz2 in bz2": (["bz2", "bz2"], bz2.compress(BZ2)),
    "lzma in bz2": (["lzma", "bz2"], bz2.compress(XZ)),
    "zstd in gzip": (["zstd", "gzip"], gzip.compress(bytes(numcodecs.Zstd(1).encode(BOMB)))),
    "bz2 in zstd without a size": (["bz2", "zstd"], _zstd_without_size()),
    "bz2 in blosc": (["bz2", "blosc"], numcodecs.Blosc("lz4").encode(BOMB)),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs(tmp_path: Path, case: str) -> None:
    """What decompresses to more than its chunk is refused, at every stage, before it has taken the memory."""
    codecs, content = BOMBS[case]
    *filters, compressor = ({"id": name} for name in codecs)
    document = V2 | {"filters": filters or None, "compressor": compressor, "chunks": [2, 3]}
    write(tmp_path, document, ".zarray")
    (tmp_path / "a" / "0.0").write_bytes(content)
    source = read_checkpoint(tmp_path).tensors["a"].source
    before = forget_peak()
    with pytest.raises(ZarrError, match=r"cannot be decoded|holds .* bytes or more"):
        source.read(0, 24)
    assert peak_resident_bytes() - before < MOST_BYTES


FILTERS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "one": ([{"id": "bz2"}], "<f4"),
    "two compressors": ([{"id": "lzma"}, {"id": "bz2"}], "<f4"),
    "compressed twice": ([{"id": "zlib"}, {"id": "zstd"}], "<f4"),
    "blosc within": ([{"id": "blosc"}, {"id": "gzip"}], "<f4"),
    "checksums": ([{"id": "crc32"}, {"id": "zstd"}, {"id": "adler32"}], "<f4"),
    "narrow differences": ([{"id": "delta", "dtype": "<i4", "astype": "<i2"}, {"id": "lz4"}], "<i4"),
    "shuffled": ([{"id": "shuffle", "elementsize": 4}, {"id": "gzip"}], "<f4"),
}


@pytest.mark.parametrize("case", FILTERS)
def test_good_stages(case: str) -> None:
    """Stages within stages are given back as they were: the limits have room for what compressors add."""
    configs, kind = FILTERS[case]
    codecs = [numcodecs.get_codec(config) for config in configs]
    chance = np.random.default_rng(0)
    for size in (1, 100, 70_000):
        array = chance.integers(0, 99, size).astype(kind) if kind == "<i4" else chance.normal(size=size).astype(kind)
        chunk: Any = array
        for codec in codecs:
            chunk = codec.encode(chunk)
        for codec in reversed(bounded(codecs, (size,), 4)):
            chunk = codec.decode(chunk)
        assert array.tobytes() == np.asarray(memoryview(chunk)).tobytes()


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("bz2", bz2.compress), ("lzma", lzma.compress)])
def test_many_streams(name: str, pack: Callable[[bytes], bytes]) -> None:
    """Streams that follow one another are read as one; a chunk of very many empty ones is refused."""
    [codec] = bounded([numcodecs.get_codec({"id": name})], (6,), 4)
    assert PART == bytes(codec.decode(pack(PART[:8]) + pack(b"") + pack(PART[8:])))
    with pytest.raises(ValueError, match="more than 16 streams"):
        codec.decode(pack(PART) + pack(b"") * 10_000)
    with pytest.raises(ValueError, match=r"ends too early|corrupt"):
        codec.decode(pack(PART)[:-1])


def test_a_large_stream_in_steps() -> None:
    """Data that is longer than a step, and what decompresses to several pieces, is read to its end."""
    array = np.random.default_rng(0).integers(0, 9, 2_500_000, np.uint8)
    for config in ({"id": "gzip"}, {"id": "zlib"}, {"id": "bz2"}, {"id": "lzma", "preset": 0}):
        codec = numcodecs.get_codec(config)
        [limited] = bounded([codec], array.shape, 1)
        assert np.array_equal(array, limited.decode(codec.encode(array)))


def test_a_dictionary_of_lzma() -> None:
    """A stream that claims a dictionary of more memory than any preset takes is refused, and every preset is taken."""
    [codec] = bounded([numcodecs.LZMA()], (6,), 4)
    assert PART == bytes(codec.decode(lzma.compress(PART, preset=9)))
    greedy = bytearray(lzma.compress(PART, lzma.FORMAT_ALONE))
    greedy[1:5] = (3 * 2**29).to_bytes(4, "little")
    with pytest.raises(lzma.LZMAError, match=r"[Mm]emory"):
        codec.decode(greedy)


SETTINGS = {
    "differences of structures": {"id": "delta", "dtype": "(1000000000,)f8"},
    "differences of objects": {"id": "delta", "dtype": "O"},
    "differences of nothing": {"id": "delta"},
    "wider differences": {"id": "delta", "dtype": "<f4", "astype": "<f8"},
    "differences of texts": {"id": "delta", "dtype": "<f4", "astype": "S100"},
    "huge elements": {"id": "shuffle", "elementsize": 2**40},
    "negative elements": {"id": "shuffle", "elementsize": -4},
    "a word for elements": {"id": "shuffle", "elementsize": "4"},
}


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("version", [2, 3])
def test_settings(tmp_path: Path, version: int, case: str) -> None:
    """Settings by which a codec would make more than the chunk are refused when the checkpoint is opened."""
    name, settings = SETTINGS[case]["id"], {key: value for key, value in SETTINGS[case].items() if key != "id"}
    if version == 2:
        write(tmp_path, V2 | {"filters": [SETTINGS[case]]}, ".zarray")
    else:
        codec = {"name": f"numcodecs.{name}", "configuration": settings}
        write(tmp_path, V3 | {"codecs": [codec, *V3["codecs"]]}, "zarr.json")
    with pytest.raises(ZarrError, match=r"differences of|shuffles elements of"):
        read_checkpoint(tmp_path)


def test_many_codecs(tmp_path: Path) -> None:
    """So many codecs that setting them up would take long are refused."""
    write(tmp_path, V2 | {"filters": [{"id": "crc32"}] * 100_000}, ".zarray")
    with pytest.raises(ZarrError, match="100000 codecs; expected at most 16"):
        read_checkpoint(tmp_path)


def test_a_million_chunks_in_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of a shard is read once for a read, not once for each chunk, and stays within what a read may take."""
    inner = SHARDS["configuration"] | {"chunk_shape": [1, 1], "index_codecs": V3["codecs"]}  # type: ignore[operator]
    document = V3 | grid(1024, 1024) | {"codecs": [{"name": "sharding_indexed", "configuration": inner}]}
    write(tmp_path, document | {"shape": [1, 200]}, "zarr.json")
    index = np.full((2**20, 2), 2**64 - 1, np.uint64)
    index[:200] = [[4 * place, 4] for place in range(200)]
    array = np.arange(200, dtype=np.float32)
    (tmp_path / "a" / "c.0.0").write_bytes(array.tobytes() + index.tobytes())
    reads = []
    monkeypatch.setattr(FolderPlace, "read", _counted(FolderPlace.read, reads))
    source = read_checkpoint(tmp_path).tensors["a"].source
    before = forget_peak()
    assert array.tobytes() == source.read(0, 200).tobytes()
    assert peak_resident_bytes() - before < source.scratch_bytes + 2**22
    assert 201 == len(reads)


def _counted(read: Callable[..., Any], reads: list[int]) -> Callable[..., Any]:
    def counting(*arguments: Any) -> Any:
        reads.append(1)
        return read(*arguments)

    return counting


def test_an_index_that_lies(tmp_path: Path) -> None:
    """Places outside the shard, and lengths that overflow, are refused."""
    write(tmp_path, V3 | grid(2, 3) | {"codecs": [SHARDS], "shape": [2, 3]}, "zarr.json")
    for entry in ((2**63, 2**63 + 5), (0, 2**64 - 2), (0, 2**40), (10**6, 12), (0, 11)):
        content = PART + np.array([entry, entry], np.uint64).tobytes()
        checksum = numcodecs.get_codec({"id": "crc32c"}).encode(content[len(PART) :])
        (tmp_path / "a" / "c.0.0").write_bytes(PART + bytes(checksum))
        with pytest.raises(ZarrError):
            read_checkpoint(tmp_path).tensors["a"].source.read(0, 6)
