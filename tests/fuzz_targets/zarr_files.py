"""Documents, zip files and stored chunks of Zarr checkpoints, whose elements are read where they are taken."""

from __future__ import annotations

import io
import json
import random
import warnings
import zipfile
from pathlib import Path

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.opening import read_checkpoint
from tests.chunk_fuzz import stored_chunks
from tests.fuzz import Target
from tests.fuzz_targets.documents import dumped
from tests.io.zarr.test_document import SHARDS, V2, V3

_MOST_READ = 24


def _read(checkpoint: Checkpoint) -> None:
    for info in checkpoint.tensors.values():
        info.source.read(0, min(info.length, _MOST_READ))


def document_target(home: Path) -> Target:
    """Metadata of arrays of both versions, with a chunk beside each that is read if they are taken."""
    for name in ("two", "three"):
        (home / name / "a").mkdir(parents=True)
        for key in ("0.0", "c.0.0"):
            (home / name / "a" / key).write_bytes(bytes(24))

    def use(data: bytes, chance: random.Random) -> None:
        two = b'"zarr_format": 2' in data
        place = home / ("two" if two else "three")
        (place / "a" / (".zarray" if two else "zarr.json")).write_bytes(data)
        _read(read_checkpoint(place))

    gzip = V2 | {"compressor": {"id": "gzip", "level": 1}, "filters": [{"id": "delta", "dtype": "<f4"}], "order": "F"}
    blosc = {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "typesize": 4}}
    packed = V3 | {"codecs": [{"name": "transpose", "configuration": {"order": [1, 0]}}, *V3["codecs"], blosc]}
    return Target("zarr", dumped(V2, V3, V3 | {"codecs": [SHARDS]}, gzip, packed), use)


def group_target(home: Path) -> Target:
    """Consolidated metadata of groups of both versions, at an address."""
    for name in ("two.zarr", "three.zarr"):
        (home / name / "a").mkdir(parents=True)
        for key in ("0.0", "c.0.0"):
            (home / name / "a" / key).write_bytes(bytes(24))

    def use(data: bytes, chance: random.Random) -> None:
        two = b'"zarr_consolidated_format"' in data
        place = home / ("two.zarr" if two else "three.zarr")
        (place / (".zmetadata" if two else "zarr.json")).write_bytes(data)
        _read(read_checkpoint(f"file://{place}"))

    group = {"zarr_format": 3, "node_type": "group", "attributes": {"safetensors_metadata": {"format": "pt"}}}
    inline = {"consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": {"a": V3}}}
    old = {"zarr_consolidated_format": 1, "metadata": {".zgroup": {"zarr_format": 2}, "a/.zarray": V2}}
    return Target("zarr group", dumped(group | inline, old), use)


def zip_target(home: Path) -> Target:
    """Zip files of arrays."""
    path, seeds = home / "a.zip", []
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for name, document in (("zarr.json", V3), (".zarray", V2)):
            made = io.BytesIO()
            with zipfile.ZipFile(made, "w", kind) as archive:
                archive.writestr(f"a/{name}", json.dumps(document))
                archive.writestr("a/c.0.0" if document is V3 else "a/0.0", bytes(24))
            seeds.append(made.getvalue())

    def use(data: bytes, chance: random.Random) -> None:
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what a file says must not reach the terminal as a warning
            _read(read_checkpoint(path))

    return Target("zarr zip", tuple(seeds), use)


def chunk_target(home: Path) -> Target:
    """Stored chunks of every codec; the first byte of an input says which."""
    chunks = stored_chunks()

    def use(data: bytes, chance: random.Random) -> None:
        chunk = chunks[(data[0] if data else 0) % len(chunks)]
        assert len(chunk.expected) == len(chunk.decode(data[1:])), "a chunk of another size"

    return Target("zarr chunk", tuple(bytes([number]) + chunk.data for number, chunk in enumerate(chunks)), use)
