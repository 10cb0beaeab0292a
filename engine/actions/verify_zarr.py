"""Checking what a Zarr output has besides its tensors' elements: metadata documents, and the objects that exist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dovetail.engine.output.manifest import hex_checksum
from dovetail.io.dtypes import DTYPES
from dovetail.io.errors import CheckpointError
from dovetail.io.source import Source
from dovetail.io.zarr.document import MAX_DOCUMENT_BYTES
from dovetail.io.zarr.layout import GROUP_NAME


def tensor_bytes(entry: Mapping[str, Any]) -> int:
    """Give the size of a tensor's elements, by its entry in the manifest."""
    return int(math.prod(entry["shape"])) * DTYPES[entry["dtype"]].itemsize


def check_document(folder: Path, checksum: str) -> list[str]:
    """Compare an array's metadata document with its checksum; say what is wrong."""
    path = folder / GROUP_NAME
    try:
        if not path.is_file():
            return [f"file {folder.name}/{GROUP_NAME} is missing"]
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES)
    except OSError as error:
        return [f"file {folder.name}/{GROUP_NAME} cannot be read ({error.strerror})"]
    return [] if hex_checksum(content) == checksum else [f"file {folder.name}/{GROUP_NAME} has changed"]


def check_objects(folder: Path, source: Source) -> list[str]:
    """Compare the objects of an array with those that its metadata asks for; say what is wrong.

    A chunk that is missing would be read as zeros, by any library, and one too many not at all.
    """
    objects = source.stored_objects()
    assert objects is not None
    expected = {*objects.object_keys(), GROUP_NAME}
    found = {path.name for path in folder.iterdir()}
    damage = []
    try:
        objects.check_padding()
    except CheckpointError as error:
        damage.append(f"a shard of {folder.name} is damaged beyond its tensor ({error.what})")
    return (
        damage
        + [f"file {folder.name}/{name} is missing" for name in sorted(expected - found)]
        + [f"file {folder.name}/{name} is not in the manifest" for name in sorted(found - expected)]
    )
