"""Checking what a Zarr output has besides its tensors' elements: metadata documents, and the objects that exist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dovetail.io.dtypes import DTYPES
from dovetail.io.errors import CheckpointError
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.files.kinds import unlike_a_file
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.source import Source, StoredObjects
from dovetail.io.zarr.document import MAX_DOCUMENT_BYTES
from dovetail.io.zarr.layout import GROUP_NAME


class ZarrCheck:
    """The check of one Zarr output (a `dovetail.io.output_format.OutputCheck`).

    Parameters
    ----------
    folder
        The output.
    manifest
        Its manifest.

    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder = folder
        self._tensors: Mapping[str, Mapping[str, Any]] = manifest["tensors"]
        self.file_names = [entry["file"] for entry in self._tensors.values()]
        self.size_bytes = sum(map(_tensor_bytes, self._tensors.values()))

    def check_metadata(self) -> tuple[list[str], int]:
        """Check the metadata document of every array; give what is damaged. Their bytes are too few to count."""
        damaged = []
        for entry in self._tensors.values():
            damaged += _check_document(self._folder / entry["file"], entry["document_checksum"])
        return damaged, 0

    def check_objects(self, name: str, source: Source) -> list[str]:
        """Compare the objects of an array with those that its metadata asks for; give what is missing or too much.

        A chunk that is missing would be read as zeros, by any library, and one too many not at all.
        """
        folder = self._folder / self._tensors[name]["file"]
        expected = {*_objects(source).object_keys(), GROUP_NAME}
        found = {path.name: path.stat().st_size for path in folder.iterdir()}
        return [
            *[f"file {folder.name}/{name} is missing" for name in sorted(expected - found.keys())],
            *[f"file {folder.name}/{name} is not in the manifest" for name in sorted(found.keys() - expected)],
            *[f"file {folder.name}/{name} is empty" for name in sorted(expected & found.keys()) if not found[name]],
        ]

    def check_tensor(self, name: str, source: Source) -> list[str]:
        """Check the objects of an array, and the chunks in them that hold no element; give what is damaged."""
        damage = []
        try:
            _objects(source).check_padding()
        except CheckpointError as error:
            damage.append(f"a shard of {self._tensors[name]['file']} is damaged beyond its tensor ({error.what})")
        return damage + self.check_objects(name, source)


def _objects(source: Source) -> StoredObjects:
    objects = source.stored_objects()
    assert objects is not None, "what `ZarrFormat.open` gives"
    return objects


def _tensor_bytes(entry: Mapping[str, Any]) -> int:
    """Give the size of a tensor's elements, by its entry in the manifest."""
    return int(math.prod(entry["shape"])) * DTYPES[entry["dtype"]].itemsize


def _check_document(folder: Path, checksum: str) -> list[str]:
    """Compare an array's metadata document with its checksum; give what is damaged."""
    path = folder / GROUP_NAME
    try:
        if fault := unlike_a_file(path):
            return [f"file {folder.name}/{GROUP_NAME} {fault}"]
        content = read_at_most(path, MAX_DOCUMENT_BYTES)
    except OSError as error:
        return [f"file {folder.name}/{GROUP_NAME} cannot be read ({error.strerror})"]
    return [] if hex_checksum(content) == checksum else [f"file {folder.name}/{GROUP_NAME} has changed"]
