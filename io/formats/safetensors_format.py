"""Safetensors as an output format: one file, or shards of about the same size with an index."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.formats import shard_check
from dovetail.io.formats.safetensors_layout import INDEX_NAME, SINGLE_NAME, SafetensorsLayout, plan_layout, shard_starts
from dovetail.io.output_format import Chunking, OutputCheck, OutputFormat, OutputTensor, Sink
from dovetail.io.sizes import part_size_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SafetensorsFormat(OutputFormat[SafetensorsLayout]):
    """Output as one safetensors file, or as several with an index."""

    name: ClassVar[str] = "safetensors"
    part_noun: ClassVar[str] = "shard"
    takes_parts: ClassVar[bool] = True
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

    def share_sink(
        self, layout: SafetensorsLayout, folder: Path, shards: Collection[int], begun: Collection[int]
    ) -> Sink:
        """Open some files, and create those that are not there."""
        from dovetail.io.formats.safetensors_sink import SafetensorsSink

        return SafetensorsSink.share(layout, folder, shards, begun)

    @property
    def shard_limit_bytes(self) -> int:
        """Most bytes of tensor data in one file."""
        return self.shard_size_bytes

    def with_shard_limit(self, limit_bytes: int) -> Self:
        """Give the format with files of another size."""
        return replace(self, shard_size_bytes=limit_bytes, shard_size=None)

    def shard_starts(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the positions of the tensors with which files begin."""
        return shard_starts(sizes, self.shard_size_bytes)

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
