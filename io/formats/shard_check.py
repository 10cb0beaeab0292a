"""Describing output files that begin with a header for the manifest, and checking all but their tensor data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dovetail.io.files.checksum import CHANGED, check_start, hex_checksum
from dovetail.io.output_format import Layout
from dovetail.io.source import Source


def shard_entries(layout: Layout) -> list[dict[str, Any]]:
    """Describe the files of a layout for the manifest: name, size, and the checksum of the header."""
    return [
        {
            "name": shard.file_name,
            "size_bytes": shard.size_bytes,
            "header_bytes": len(shard.header),
            "header_checksum": hex_checksum(shard.header),
        }
        for shard in layout.shards
    ]


class ShardCheck:
    """Checks the files that `shard_entries` describes (a `dovetail.io.output_format.OutputCheck`).

    Parameters
    ----------
    folder
        The output folder.
    manifest
        The output's manifest.

    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder = folder
        self._shards: Sequence[Mapping[str, Any]] = manifest["shards"]
        self.file_names = [shard["name"] for shard in self._shards]
        self.size_bytes = sum(shard["size_bytes"] for shard in self._shards)

    def check_metadata(self) -> tuple[list[str], int]:
        """Check the files' sizes and headers; return a sentence for each damaged file, and the bytes read."""
        damaged, read = [], 0
        for shard in self._shards:
            path, size_bytes = self._folder / shard["name"], shard["size_bytes"]
            damage, count = check_start(path, size_bytes, shard["header_bytes"], shard["header_checksum"])
            read += count
            if damage == CHANGED:
                size = path.stat().st_size
                damage = "has a damaged header" if size == size_bytes else f"has {size} bytes instead of {size_bytes}"
            if damage:
                damaged.append(f"shard {shard['name']} {damage}")
        return damaged, read

    def check_objects(self, name: str, source: Source) -> list[str]:
        """Return no damage, because a tensor is stored in a file that `check_metadata` checks."""
        return []

    def check_tensor(self, name: str, source: Source) -> list[str]:
        """Return no damage, because nothing is stored for a tensor besides its elements."""
        return []
