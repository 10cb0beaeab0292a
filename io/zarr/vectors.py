"""Stores of task vectors as an output format: a Zarr v3 group with two arrays for each tensor and model.

What a model keeps of a tensor is stored chunk by chunk. One array has a row of marks for each chunk, the other a row of
values: the model's stored elements at the places that are marked, one after another, and zeros up to the end of the
row. Every row is one compressed object, and ends with a CRC32C as in any other Zarr output: it is read at once, by
`dovetail.io.zarr.direct`.

::

    T.marks.J    uint8[chunks, 32 + bytes of marks]   a header, then one bit an element, the lowest bit first
    T.values.J   dtype of the model[chunks, most]     the values at the marks

The header of a row says how many places are marked (uint64), what the base model had there (XXH3-64 of its stored
elements), and by what a method multiplies what it keeps (float32); the rest is zero. All numbers are little endian.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from dovetail.io.output_format import Chunking, OutputTensor
from dovetail.io.zarr.format import ZarrFormat, write_scratch_bytes
from dovetail.io.zarr.layout import ArrayFolder, ArrayGrid, ZarrLayout, plan_zarr

HEADER_BYTES: Final = 32
"""Length of the header of a row of marks, which is `dovetail.io.zarr.packed.HEADER`."""

VALUES_CODEC: Final = "blosc"
"""How values are compressed unless the user says otherwise: about as small as by Zstandard, unpacked twice as fast."""

_METADATA: Final = {"format": "dovetail-vectors"}
_MARKS: Final = re.compile(r"\.marks\.\d+$")


def mark_bytes(elements: int) -> int:
    """Give the bytes of a row with the marks of so many elements: its header, and whole words of 64 marks."""
    return HEADER_BYTES + 8 * (-(-elements // 64))


def array_names(tensor: str, place: int) -> tuple[str, str]:
    """Name the arrays with the marks and the values of a tensor of one model, the model being told by its place."""
    return f"{tensor}.marks.{place}", f"{tensor}.values.{place}"


@dataclass(frozen=True)
class VectorsFormat(ZarrFormat):
    """Output as a store of task vectors: matrices of which each row is one object, and one chunk of the plan."""

    name: ClassVar[str] = "vectors"
    takes_any_range: ClassVar[bool] = True
    command_options: ClassVar[Mapping[str, str]] = {"--codec": "codec"}

    codec: str = VALUES_CODEC
    """How values are compressed; see `marks_codec` for the marks."""

    @property
    def marks_codec(self) -> str:
        """How marks are compressed: bits that are set at random lose a fifth by Zstandard, and nothing by LZ4."""
        return "zstd" if self.codec == "blosc" else self.codec

    def lay_out(
        self, tensors: Sequence[OutputTensor], metadata: Mapping[str, str] | None = None
    ) -> tuple[ZarrLayout, Sequence[Chunking]]:
        """Make every row of every matrix an object; the plan's chunks of the inputs stay as they are."""
        placed = [(item.name, item.dtype, item.shape, _rows(item.shape)) for item in tensors]
        # One task writes rows of all arrays of a tensor, of which the plan knows the first alone.
        longest = max((item.shape[1] * item.dtype.itemsize for item in tensors), default=0)
        chunkings = [Chunking(item.chunk_elements, 0, write_scratch_bytes(longest)) for item in tensors]
        layout = plan_zarr(placed, self.codec, metadata or _METADATA)
        return replace(layout, shards=tuple(map(self._compressed, layout.shards))), chunkings

    def _compressed(self, folder: ArrayFolder) -> ArrayFolder:
        """Choose how an array is compressed."""
        return replace(folder, codec=self.marks_codec) if _MARKS.search(folder.array.name) else folder

    def to_json(self) -> dict[str, Any]:
        """Give the options."""
        return {self.name: {"codec": self.codec}}


def _rows(shape: tuple[int, ...]) -> ArrayGrid:
    """Cut a matrix into its rows."""
    row = (1, shape[1])
    return ArrayGrid(row, row, shape[1], math.prod(shape))
