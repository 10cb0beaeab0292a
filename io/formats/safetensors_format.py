"""Safetensors as an output format: shards of about one size, and an index if there are several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.formats import shard_check
from dovetail.io.formats.safetensors_layout import INDEX_NAME, SafetensorsLayout, plan_layout
from dovetail.io.output_format import Chunking, OutputCheck, OutputFormat, OutputTensor, Sink


@dataclass(frozen=True)
class SafetensorsFormat(OutputFormat[SafetensorsLayout]):
    """Output as one safetensors file, or as several with an index."""

    name: ClassVar[str] = "safetensors"
    part_noun: ClassVar[str] = "shard"
    document_names: ClassVar[frozenset[str]] = frozenset({INDEX_NAME})
    command_options: ClassVar[Mapping[str, str]] = {"--shard-size": "shard_size_bytes"}

    shard_size_bytes: int = 5 * 10**9
    """Most bytes of tensor data in one file; a larger tensor has a file for itself."""

    def to_json(self) -> dict[str, Any]:
        """Give the options; they stand outside an object of the format's name, as when there was no other format."""
        return {"shard_size_bytes": self.shard_size_bytes}

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> Self:
        """Read the options of a manifest."""
        return cls(options["shard_size_bytes"])

    def identity(self) -> dict[str, Any]:
        """Give what a plan's hash depends on; that there are no options of Zarr was part of the first hashes."""
        return {**self.to_json(), "zarr": None}

    def lay_out(
        self, tensors: Sequence[OutputTensor], metadata: Mapping[str, str] | None = None
    ) -> tuple[SafetensorsLayout, Sequence[Chunking]]:
        """Divide tensors among files; any range of elements can be written by itself."""
        layout = plan_layout([(item.name, item.dtype, item.shape) for item in tensors], self.shard_size_bytes, metadata)
        return layout, [Chunking(item.chunk_elements) for item in tensors]

    def create_sink(self, layout: SafetensorsLayout, folder: Path) -> Sink:
        """Create all files."""
        from dovetail.io.formats.safetensors_sink import SafetensorsSink

        return SafetensorsSink.create(layout, folder)

    def reopen_sink(self, layout: SafetensorsLayout, folder: Path) -> Sink:
        """Open the files of an earlier run."""
        from dovetail.io.formats.safetensors_sink import SafetensorsSink

        return SafetensorsSink(layout, folder)

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read the files' headers."""
        from dovetail.io.formats import safetensors_reader

        return safetensors_reader.read_folder(folder)

    @classmethod
    def shard_entries(cls, layout: SafetensorsLayout) -> list[dict[str, Any]]:
        """Describe every file."""
        return shard_check.shard_entries(layout)

    @classmethod
    def check(cls, folder: Path, manifest: Mapping[str, Any]) -> OutputCheck:
        """Begin the check of sizes and headers."""
        return shard_check.ShardCheck(folder, manifest)
