"""What the engine sees of an output, whatever its format: a layout that is known beforehand, and a sink that fills it.

One backend a file: `dovetail.io.formats.safetensors_sink` writes safetensors, `dovetail.io.zarr.sink` writes Zarr. A
sink is opened with `create_sink` or, to go on with what an earlier run has left, `reopen_sink`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from dovetail.io.errors import OutputFormatError
from dovetail.io.formats.safetensors_layout import SafetensorsLayout
from dovetail.io.source import Slot, WrittenRange
from dovetail.io.zarr.layout import ZarrLayout

CODECS: Final = ("zstd", "blosc", "none")
"""How chunks of Zarr output can be compressed, the default first."""


@dataclass(frozen=True, slots=True)
class ZarrOptions:
    """What decides the bytes of Zarr output, besides the tensors."""

    codec: str = CODECS[0]
    """One of `CODECS`."""
    shard_bytes: int | None = None
    """About how large the objects shall be, each a shard of chunks; None for one chunk an object."""

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise OutputFormatError(f"codec is {self.codec!r}", "one of " + ", ".join(CODECS), "choose one of these")
        if self.shard_bytes is not None and self.shard_bytes < 1:
            raise OutputFormatError(f"size of shards is {self.shard_bytes}", "a positive size", "give one, or none")


def choose_format(
    name: str, shard_size_bytes: int | None, codec: str | None, zarr_shard_bytes: int | None
) -> ZarrOptions | None:
    """Turn what a user asks of the output's format into its options; None for safetensors.

    Parameters
    ----------
    name
        ``safetensors`` or ``zarr``.
    shard_size_bytes
        Size of safetensors shards, if it was given.
    codec, zarr_shard_bytes
        Compression and size of shards of Zarr output, if they were given.

    Raises
    ------
    OutputFormatError
        An option is for the other format.

    """
    if name == "zarr":
        if shard_size_bytes is not None:
            raise OutputFormatError(
                "--shard-size is for safetensors files, and the output is zarr",
                "--zarr-shards for larger objects, or neither",
                "pass --zarr-shards instead",
            )
        return ZarrOptions(codec or CODECS[0], zarr_shard_bytes)
    for option, value in (("--codec", codec), ("--zarr-shards", zarr_shard_bytes)):
        if value is not None:
            raise OutputFormatError(
                f"{option} is for zarr output, and the output is {name}", "--format zarr", f"add it, or leave {option}"
            )
    return None


class PlacedTensor(Protocol):
    """An output tensor and its place."""

    @property
    def name(self) -> str:
        """Tensor name."""

    @property
    def length(self) -> int:
        """Number of elements."""

    @property
    def shard(self) -> int:
        """Position in `Layout.shards` of what holds it."""


class Shard(Protocol):
    """A part of the output that is complete when its tensors are: a safetensors file, or the folder of an array."""

    @property
    def file_name(self) -> str:
        """Name within the output folder."""

    @property
    def header(self) -> bytes:
        """What describes it: the header of the file, or the array's metadata document."""

    @property
    def size_bytes(self) -> int:
        """Size; where data is compressed, the most that it can be."""


class Layout(Protocol):
    """Where everything of the output goes, and what its metadata is."""

    @property
    def format(self) -> str:
        """Name of the format."""

    @property
    def tensors(self) -> Sequence[PlacedTensor]:
        """The tensors, in the order in which they were given."""

    @property
    def shards(self) -> Sequence[Shard]:
        """What holds them."""

    @property
    def documents(self) -> Mapping[str, bytes]:
        """Further files that the sink writes into the output folder, by name, with what is in them."""


class Sink(Protocol):
    """The files of one output. Every method is safe to call from several threads."""

    def slot(self, tensor_index: int) -> Slot:
        """Return the place of a tensor, which also other processes can write to."""

    def commit(self, ranges: Iterable[WrittenRange]) -> None:
        """Make written ranges durable: they then survive a crash of the machine, whichever process wrote them.

        Raises
        ------
        OSError
            If the disk is full or fails; the ranges may then be lost.

        """

    def close(self) -> None:
        """Let go of all files. Nothing is flushed: only what was committed is durable."""


def create_sink(layout: Layout, folder: Path) -> Sink:
    """Create the output's files, with all metadata, in an existing folder.

    Raises
    ------
    FileExistsError
        If one of them is already there.
    OSError
        If the disk is full or the folder cannot be written.

    """
    from dovetail.io.formats.safetensors_sink import SafetensorsSink
    from dovetail.io.zarr.sink import ZarrSink

    if isinstance(layout, ZarrLayout):
        return ZarrSink.create(layout, folder)
    assert isinstance(layout, SafetensorsLayout)
    return SafetensorsSink.create(layout, folder)


def reopen_sink(layout: Layout, folder: Path) -> Sink:
    """Open the files that `create_sink` made in an earlier run.

    Raises
    ------
    OSError
        If one of them is not there or not as it was made, and cannot be made again.

    """
    from dovetail.io.formats.safetensors_sink import SafetensorsSink
    from dovetail.io.zarr.sink import ZarrSink

    if isinstance(layout, ZarrLayout):
        return ZarrSink(layout, folder)
    assert isinstance(layout, SafetensorsLayout)
    return SafetensorsSink(layout, folder)
