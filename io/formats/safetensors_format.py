"""Safetensors as an output format: one file, or shards of about the same size with an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.formats import shard_check
from dovetail.io.formats.safetensors_layout import INDEX_NAME, SINGLE_NAME, SafetensorsLayout, plan_layout
from dovetail.io.output_format import Chunking, OutputCheck, OutputFormat, OutputTensor, Sink
from dovetail.io.sizes import part_size_bytes


@dataclass(frozen=True)
class SafetensorsFormat(OutputFormat[SafetensorsLayout]):
    """Output as one safetensors file, or as several with an index."""

    name: ClassVar[str] = "safetensors"
    part_noun: ClassVar[str] = "shard"
    document_names: ClassVar[frozenset[str]] = frozenset({INDEX_NAME})
    command_options: ClassVar[Mapping[str, str]] = {"--shard-size": "shard_size_bytes"}

    shard_size_bytes: int = 5 * 10**9
    """Most bytes of tensor data in one file; a larger tensor gets a file that holds nothing else."""
    single_name: str = SINGLE_NAME
    """Name of the file if there is only one. A plan's hash depends on it by the names of the output files."""
    shard_size: InitVar[str | int | None] = None
    """Another way to give `shard_size_bytes`: as people write sizes, ``"5GB"``."""

    def __post_init__(self, shard_size: str | int | None) -> None:
        if shard_size is not None:
            object.__setattr__(self, "shard_size_bytes", part_size_bytes(shard_size))

    def to_json(self) -> dict[str, Any]:
        """Give the options, not inside an object with the format's name, because the first manifests had no formats."""
        return {"shard_size_bytes": self.shard_size_bytes}

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> Self:
        """Make the format from the options in a manifest."""
        return cls(options["shard_size_bytes"])

    def identity(self) -> dict[str, Any]:
        """Give the options on which a plan's hash depends, with ``"zarr": None`` as in the first version's hashes."""
        return {**self.to_json(), "zarr": None}

    def lay_out(
        self, tensors: Sequence[OutputTensor], metadata: Mapping[str, str] | None = None
    ) -> tuple[SafetensorsLayout, Sequence[Chunking]]:
        """Divide the tensors among files; tasks may write any range of elements."""
        specs = [(item.name, item.dtype, item.shape) for item in tensors]
        layout = plan_layout(specs, self.shard_size_bytes, metadata, self.single_name)
        return layout, [Chunking(item.chunk_elements) for item in tensors]

    def create_sink(self, layout: SafetensorsLayout, folder: Path) -> Sink:
        """Create all files of the output."""
        from dovetail.io.formats.safetensors_sink import SafetensorsSink

        return SafetensorsSink.create(layout, folder)

    def reopen_sink(self, layout: SafetensorsLayout, folder: Path) -> Sink:
        """Open the files that an earlier run has created."""
        from dovetail.io.formats.safetensors_sink import SafetensorsSink

        return SafetensorsSink(layout, folder)

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read the headers of the output's files; an adapter's one file, by itself no checkpoint, is read alone."""
        from dovetail.io.formats import safetensors_reader

        if safetensors_reader.is_adapter(folder):
            return safetensors_reader.read_file(folder / safetensors_reader.ADAPTER_NAME)
        return safetensors_reader.read_folder(folder)

    @classmethod
    def shard_entries(cls, layout: SafetensorsLayout) -> list[dict[str, Any]]:
        """Describe every file for the manifest."""
        return shard_check.shard_entries(layout)

    @classmethod
    def check(cls, folder: Path, manifest: Mapping[str, Any]) -> OutputCheck:
        """Make the check of the files' sizes and headers."""
        return shard_check.ShardCheck(folder, manifest)
