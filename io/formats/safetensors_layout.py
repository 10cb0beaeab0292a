"""Planning the files of a safetensors output, and the place of every tensor, before the first byte is computed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from dovetail.io.dtypes import DType
from dovetail.io.errors import HeaderError
from dovetail.io.formats.header import build_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INDEX_NAME: Final = "model.safetensors.index.json"
"""Name of the index beside the shards of a sharded checkpoint."""

SINGLE_NAME: Final = "model.safetensors"
"""Name of the file of a checkpoint that is not sharded."""

TensorSpec = tuple[str, DType, tuple[int, ...]]
"""Name, dtype and shape of a tensor that will be written."""


class PlacedTensor(NamedTuple):  # faster to make than a frozen dataclass, and there can be a million
    """A tensor of an output, with its place."""

    name: str
    """Tensor name."""
    dtype: DType
    """Type of the elements that are written."""
    shape: tuple[int, ...]
    """Dimensions."""
    length: int
    """Number of elements."""
    shard: int
    """Position in `SafetensorsLayout.shards` of the file that holds the tensor."""
    offset_bytes: int
    """Position of the first element in that file."""

    @property
    def nbytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return self.length * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file."""

    file_name: str
    """Name of the file within the output folder."""
    header: bytes
    """The file's first bytes, up to where the tensor data begins."""
    size_bytes: int
    """Size of the whole file."""


@dataclass(frozen=True, slots=True)
class SafetensorsLayout:
    """All files of a safetensors checkpoint that will be written."""

    tensors: tuple[PlacedTensor, ...]
    """The tensors, in the order in which they were given."""
    shards: tuple[Shard, ...]
    """The files, in order."""
    index: bytes | None
    """Content of ``model.safetensors.index.json``; ``None`` if there is a single file, which needs no index."""
    total_size_bytes: int
    """Size of all tensor data, without headers."""

    def __repr__(self) -> str:
        return f"SafetensorsLayout(tensors: {len(self.tensors):,}, files: {len(self.shards):,})"

    @property
    def documents(self) -> dict[str, bytes]:
        """Content of the index by its file name; empty if there is none."""
        return {} if self.index is None else {INDEX_NAME: self.index}

    def file_name(self, tensor_index: int) -> str:
        """Name of the file that holds a tensor."""
        return self.shards[self.tensors[tensor_index].shard].file_name


def plan_layout(
    tensors: Iterable[TensorSpec],
    shard_size_bytes: int,
    metadata: Mapping[str, str] | None = None,
    single_name: str = SINGLE_NAME,
) -> SafetensorsLayout:
    """Divide tensors among shards.

    Parameters
    ----------
    tensors
        Name, dtype and shape of each tensor. The shards, one after another, hold the tensors in this order.
    shard_size_bytes
        Most bytes of tensor data in one shard. A larger tensor gets a shard that holds nothing else.
    metadata
        Metadata for the shards' headers; by default ``{"format": "pt"}``.
    single_name
        Name of the file if there is only one shard.

    Raises
    ------
    HeaderError
        If two tensors have the same name, or a shard's header would be longer than the format allows.
    ValueError
        If the shard size is not positive.

    """
    if shard_size_bytes <= 0:
        raise ValueError(f"shard_size_bytes is {shard_size_bytes}; it must be positive")
    groups = _group(tensors, shard_size_bytes)
    shards: list[Shard] = []
    placed: list[PlacedTensor] = []
    weight_map: dict[str, str] = {}
    total = 0
    for number, group in enumerate(groups):
        file_name = single_name if len(groups) == 1 else _file_name(number, len(groups))
        header = build_header(group, metadata)
        position = len(header)
        for name, dtype, shape in group:
            if name in weight_map:
                raise HeaderError(f"two tensors are called {name!r}", "one name for one tensor", "rename one")
            weight_map[name] = file_name
            tensor = PlacedTensor(name, dtype, tuple(shape), math.prod(shape), number, position)
            placed.append(tensor)
            position += tensor.nbytes
        shards.append(Shard(file_name, header, position))
        total += position - len(header)
    index = build_index(weight_map, total) if len(shards) > 1 else None
    return SafetensorsLayout(tuple(placed), tuple(shards), index, total)


def build_index(weight_map: Mapping[str, str], total_size_bytes: int) -> bytes:
    """Build the content of ``model.safetensors.index.json``.

    Parameters
    ----------
    weight_map
        File name of each tensor.
    total_size_bytes
        Size of all tensor data.

    """
    document = {"metadata": {"total_size": total_size_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _group(tensors: Iterable[TensorSpec], shard_size_bytes: int) -> Sequence[list[TensorSpec]]:
    """Cut the sequence of tensors into shards, each as full as the order allows."""
    import numpy as np  # not at the top: help has no need of it

    listed = list(tensors)
    sizes = np.array([math.prod(shape) * dtype.itemsize for _, dtype, shape in listed], np.int64)
    starts = shard_starts(sizes, shard_size_bytes).tolist()
    return [listed[start:stop] for start, stop in pairwise([*starts, len(listed)])] if listed else [[]]


def shard_starts(sizes: NDArray[np.int64], shard_size_bytes: int) -> NDArray[np.int64]:
    """Give the positions of the tensors with which shards begin, each shard as full as the order allows.

    Parameters
    ----------
    sizes
        Bytes of each tensor, in order.
    shard_size_bytes
        Most bytes of a shard; a larger tensor gets a shard that holds nothing else.

    """
    import numpy as np

    ends = np.cumsum(sizes)
    starts, start, before = [], 0, 0
    while start < len(sizes):
        starts.append(start)
        start = max(start + 1, int(np.searchsorted(ends, before + shard_size_bytes, "right")))
        before = int(ends[start - 1])
    return np.array(starts, np.int64)


def _file_name(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"
