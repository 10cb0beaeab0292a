"""Zarr arrays as sources: of either version, cut in any way, in folders, shards and zip files."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numcodecs
from zarr.codecs import BytesCodec, TransposeCodec, ZstdCodec

from dovetail.io import read_checkpoint
from dovetail.io.source import Decoding
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.stored import random_bytes, store_zarr, touch

LAYOUTS: dict[str, dict[str, Any]] = {
    "v2": {"zarr_format": 2},
    "v2, column-major, filtered": {"zarr_format": 2, "order": "F", "filters": [numcodecs.Shuffle(4)]},
    "v3": {},
    "v3, rows": {"compressors": None},
    "v3, transposed": {
        "filters": [TransposeCodec(order=(1, 0))],
        "serializer": BytesCodec(endian="big"),
        "compressors": ZstdCodec(level=1),
    },
    "shards": {"shards": True},
    "zip": {},
}


class TestZarrSource(SourceTests):
    """Arrays by zarr-python, in chunks that mostly cut rows."""

    kinds = tuple(LAYOUTS)

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        values, options = random_bytes(shape, "<u4"), dict(LAYOUTS[kind])
        chunks = (shape[0] // 3, shape[1] if kind == "v3, rows" else shape[1] // 2 - 1)
        if options.pop("shards", False):
            options["shards"] = (2 * chunks[0], 2 * chunks[1])
        source = store_zarr(folder / "z", values, chunks, **options)
        place = folder / "z"
        if kind == "zip":
            place = folder / "z.zip"
            with zipfile.ZipFile(place, "w") as archive:
                for file in sorted((folder / "z").rglob("*")):
                    archive.write(file, file.relative_to(folder / "z"))
            source = read_checkpoint(place).tensors["w"].source
        yield Stored(source, values.tobytes(), lambda: touch(place))


def test_what_a_read_takes(tmp_path: Path) -> None:
    """A source says what its reads need beyond their result, what they decode, and how much of it neighbours share."""
    values = random_bytes((100, 64), "<f4")
    rows = store_zarr(tmp_path / "rows", values, (10, 64))
    both = store_zarr(tmp_path / "both", values, (50, 16))
    chunk_bytes, stored_bytes = 2560, 2560 + 2560 // 4 + 2**20
    assert stored_bytes + 2 * chunk_bytes == rows.scratch_bytes
    assert Decoding(640, 0) == rows.decoding(640, 1280)
    assert Decoding(5 * 640, 4 * 3200) == both.decoding(640, 1280)
    assert Decoding(0, 0) == both.decoding(0, 0)


def test_objects_are_listed(tmp_path: Path) -> None:
    """The objects of an array are those that its shape asks for, whether they are there or not."""
    source = store_zarr(tmp_path, random_bytes((5, 4), "<u2"), (2, 3))
    objects = source.stored_objects()
    assert objects is not None
    assert {f"c/{row}/{column}" for row in range(3) for column in range(2)} == set(objects.object_keys())
