"""Zarr as an output format: a v3 group with one array a tensor, its chunks compressed, in shards if asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import OutputFormatError
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.output_format import Chunking, OutputCheck, OutputFormat, OutputTensor, Sink
from dovetail.io.sizes import part_size_bytes
from dovetail.io.zarr.layout import CODECS, GROUP_NAME, ArrayGrid, ZarrLayout, array_grid, plan_zarr

_ENCODED_BYTES: Final = 2**20
"""What codecs need however small the chunk."""

_SHARD_SIZE_BYTES: Final = 5 * 10**9
"""What manifests say of the size of safetensors files, which Zarr output has none of: its bytes stay what they were."""


@dataclass(frozen=True)
class ZarrFormat(OutputFormat[ZarrLayout]):
    """Output as a Zarr group."""

    name: ClassVar[str] = "zarr"
    part_noun: ClassVar[str] = "Zarr array"
    data_noun: ClassVar[str] = "Zarr chunks"
    sizes_are_limits: ClassVar[bool] = True
    takes_any_range: ClassVar[bool] = False
    takes_parts: ClassVar[bool] = True
    document_names: ClassVar[frozenset[str]] = frozenset({GROUP_NAME})
    command_options: ClassVar[Mapping[str, str]] = {"--codec": "codec", "--zarr-shards": "shard_bytes"}

    codec: str = CODECS[0]
    """How chunks are compressed: one of `CODECS`."""
    shard_bytes: int | None = None
    """About how large the objects shall be, each a shard of chunks; None for one chunk an object."""
    shards: InitVar[str | int | None] = None
    """Another way to give `shard_bytes`: as people write sizes, ``"256MiB"``."""

    def __post_init__(self, shards: str | int | None) -> None:
        if shards is not None:
            object.__setattr__(self, "shard_bytes", part_size_bytes(shards))
        if self.codec not in CODECS:
            raise OutputFormatError(f"codec is {self.codec!r}", "one of " + ", ".join(CODECS), "choose one of these")
        if self.shard_bytes is not None and self.shard_bytes < 1:
            raise OutputFormatError(f"size of shards is {self.shard_bytes}", "a positive size", "give one, or none")

    def to_json(self) -> dict[str, Any]:
        """Give the options."""
        return {"shard_size_bytes": _SHARD_SIZE_BYTES, self.name: asdict(self)}

    @classmethod
    def refuse_option(cls, option: str, owner: str) -> OutputFormatError:
        """Name the option to use instead of the one for safetensors files, if it was that."""
        if option != "--shard-size":
            return super().refuse_option(option, owner)
        return OutputFormatError(
            f"{option} is for {owner} files, and the output is {cls.name}",
            "--zarr-shards for larger objects, or neither",
            "pass --zarr-shards instead",
        )

    def lay_out(
        self, tensors: Sequence[OutputTensor], metadata: Mapping[str, str] | None = None
    ) -> tuple[ZarrLayout, Sequence[Chunking]]:
        """Cut tensors into objects, and have a task write whole ones."""
        grids = [self._grid(item) for item in tensors]
        pairs = list(zip(tensors, grids, strict=True))
        layout = plan_zarr([(item.name, item.dtype, item.shape, grid) for item, grid in pairs], self.codec, metadata)
        lengths = [placed.length for placed in layout.tensors]
        return layout, [
            _chunking(grid, length, item.dtype.itemsize) for (item, grid), length in zip(pairs, lengths, strict=True)
        ]

    def _grid(self, tensor: OutputTensor) -> ArrayGrid:
        itemsize, target = tensor.dtype.itemsize, tensor.chunk_elements
        if self.shard_bytes is not None:
            target = max(target, self.shard_bytes // itemsize)
        return array_grid(tensor.shape, itemsize, target, sharded=self.shard_bytes is not None)

    def create_sink(self, layout: ZarrLayout, folder: Path) -> Sink:
        """Create all folders and metadata documents."""
        from dovetail.io.zarr.sink import ZarrSink

        return ZarrSink.create(layout, folder)

    def reopen_sink(self, layout: ZarrLayout, folder: Path) -> Sink:
        """Open the folders of an earlier run; metadata documents that are damaged are written again."""
        from dovetail.io.zarr.sink import ZarrSink

        return ZarrSink(layout, folder)

    def share_sink(self, layout: ZarrLayout, folder: Path, shards: Collection[int], begun: Collection[int]) -> Sink:
        """Open the folders of some arrays, and create those that are not there."""
        from dovetail.io.zarr.sink import ZarrSink

        return ZarrSink.share(layout, folder, shards, begun)

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read the metadata of every array."""
        from dovetail.io.zarr import reader

        return reader.read_folder(folder)

    @classmethod
    def shard_entries(cls, layout: ZarrLayout) -> list[dict[str, Any]]:
        """List nothing: each array is described with its tensor."""
        return []

    @classmethod
    def tensor_entry(cls, layout: ZarrLayout, index: int, chunking: Chunking) -> dict[str, Any]:
        """Describe an array: where its chunks begin anew, and the checksum of its metadata document."""
        folder = layout.shards[layout.tensors[index].shard]
        return {"chunk_period": chunking.chunk_period, "document_checksum": hex_checksum(folder.header)}

    @classmethod
    def check(cls, folder: Path, manifest: Mapping[str, Any]) -> OutputCheck:
        """Begin the check of documents and objects."""
        from dovetail.io.zarr.check import ZarrCheck

        return ZarrCheck(folder, manifest)


def _chunking(grid: ArrayGrid, length: int, itemsize: int) -> Chunking:
    """Make an array's objects the chunks."""
    return Chunking(
        chunk_elements=grid.object_elements,
        chunk_period=grid.period if grid.period < length else 0,
        write_scratch_bytes=write_scratch_bytes(grid.object_elements * itemsize),
    )


def write_scratch_bytes(object_bytes: int) -> int:
    """Give the most memory that writing an object takes: it exists padded, compressed and with checksums."""
    return 13 * object_bytes // 4 + _ENCODED_BYTES
