"""The layout of a Zarr output: where every object goes, decided before the first byte is computed.

The output is a Zarr v3 group with one array for each tensor, each array in a separate folder. An object is a chunk or,
if the user asks for shards, a shard of chunks. It is one run of the flattened tensor and one chunk of the plan, so that
no two tasks write the same object. Every Zarr chunk ends with a CRC32C, by which any library detects damage.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import xxhash

from dovetail.io.dtypes import DType
from dovetail.io.errors import HeaderError
from dovetail.io.zarr.chunking import ChunkGrid
from dovetail.io.zarr.document import NAME_ATTRIBUTE

GROUP_NAME: Final = "zarr.json"
"""Name of the metadata document of the group, and of each array."""

INNER_BYTES: Final = 2**20
"""Size of a chunk within a shard, as near below it as rows allow."""

CODECS: Final = ("zstd", "blosc", "none")
"""How chunks can be compressed, the default first."""

_DOCUMENT_BYTES: Final = 4096
"""An upper bound of the bytes of an array's metadata document."""

_STEP_ELEMENTS: Final = 1 << 16
"""Objects are a multiple of this many elements, where rows allow; it is a multiple of the usual block lengths."""

_PLAIN_NAME: Final = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_FILE_SUFFIXES: Final = re.compile(
    r"\.(json|md|txt|ya?ml|model|py|jinja|vocab|bpe|tiktoken|spm|html|png|jpg|pdf)$", re.I
)
_OTHER_NAMES: Final = re.compile(r"(dovetail_.*|license|notice|readme|merges|use_policy|c)$", re.I)


@dataclass(frozen=True, slots=True)
class ArrayGrid:
    """How a tensor is cut into objects, and the objects into chunks."""

    object_shape: tuple[int, ...]
    """Dimensions of an object."""
    chunk_shape: tuple[int, ...]
    """Dimensions of a chunk; equal to `object_shape` without shards."""
    object_elements: int
    """Elements of an object, without padding."""
    period: int
    """Elements of a period. Every period is cut into objects of `object_elements`, the last of which may be shorter."""


@dataclass(frozen=True, slots=True)
class PlacedArray:
    """An output tensor and its place in the output."""

    name: str
    """Tensor name."""
    dtype: DType
    """Dtype in which the tensor is written."""
    shape: tuple[int, ...]
    """Dimensions."""
    shard: int
    """Index in `ZarrLayout.shards` of the tensor's folder."""
    grid: ArrayGrid
    """How the tensor is cut."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def objects(self) -> ChunkGrid:
        """The grid of the tensor's objects."""
        return ChunkGrid(self.shape, self.grid.object_shape)


@dataclass(frozen=True, slots=True)
class ArrayFolder:
    """The folder of one array."""

    array: PlacedArray
    """The array that the folder holds."""
    codec: str
    """Compression of the chunks: one of `CODECS`."""

    @property
    def file_name(self) -> str:
        """Name of the folder within the output."""
        return folder_name(self.array.name)

    @property
    def header(self) -> bytes:
        """The array's metadata document."""
        return encode(array_document(self.array, self.codec))

    @property
    def size_bytes(self) -> int:
        """Most bytes of the folder's files, if compression saves nothing."""
        raw = math.prod(self.array.grid.object_shape) * self.array.dtype.itemsize
        chunks = math.prod(self.array.grid.object_shape) // math.prod(self.array.grid.chunk_shape)
        count = math.prod(self.array.objects.counts) if self.array.length else 0
        return count * (raw + raw // 128 + 256 * chunks) + _DOCUMENT_BYTES


@dataclass(frozen=True, slots=True)
class ZarrLayout:
    """All folders of a Zarr group that is to be written."""

    tensors: tuple[PlacedArray, ...]
    """The tensors, in the order in which they were given."""
    shards: tuple[ArrayFolder, ...]
    """The folders of the tensors, in the same order."""
    metadata: Mapping[str, str]
    """Free-form metadata, such as a safetensors header holds."""
    codec: str
    """Compression of the chunks: one of `CODECS`."""

    def __repr__(self) -> str:
        return f"ZarrLayout(tensors: {len(self.tensors):,}, codec={self.codec!r})"

    @property
    def documents(self) -> dict[str, bytes]:
        """The group's metadata document, by its file name; it includes those of all arrays (consolidated metadata)."""
        arrays = {folder.file_name: array_document(folder.array, folder.codec) for folder in self.shards}
        return {
            GROUP_NAME: encode(
                {
                    "zarr_format": 3,
                    "node_type": "group",
                    "attributes": {"safetensors_metadata": dict(self.metadata)},
                    "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
                }
            )
        }


def plan_zarr(
    tensors: Iterable[tuple[str, DType, tuple[int, ...], ArrayGrid]],
    codec: str,
    metadata: Mapping[str, str] | None = None,
) -> ZarrLayout:
    """Give every tensor a folder.

    Parameters
    ----------
    tensors
        Name, dtype, shape and grid of each tensor; `array_grid` makes the grid.
    codec
        How chunks are compressed: one of `CODECS`.
    metadata
        Free-form metadata; by default ``{"format": "pt"}``, as safetensors files have.

    Raises
    ------
    HeaderError
        If two tensors have the same name.

    """
    placed: list[PlacedArray] = []
    names: set[str] = set()
    for number, (name, dtype, shape, grid) in enumerate(tensors):
        if name in names:
            raise HeaderError(f"two tensors are called {name!r}", "one name for one tensor", "rename one")
        names.add(name)
        placed.append(PlacedArray(name, dtype, tuple(shape), number, grid))
    folders = tuple(ArrayFolder(array, codec) for array in placed)
    return ZarrLayout(tuple(placed), folders, dict(metadata or {"format": "pt"}), codec)


def array_grid(shape: tuple[int, ...], itemsize: int, target_elements: int, *, sharded: bool) -> ArrayGrid:
    """Cut a tensor into objects of about `target_elements`, each of which is one run of elements.

    Parameters
    ----------
    shape
        Dimensions of the tensor.
    itemsize
        Size of one element in bytes.
    target_elements
        Most elements of an object.
    sharded
        Whether objects are shards of chunks.

    """
    sizes = [max(1, size) for size in shape]
    axis = next((axis for axis in range(len(sizes)) if math.prod(sizes[axis + 1 :]) <= target_elements), None)
    if axis is None:  # a scalar; any other tensor has a last axis, after which rows have one element
        return ArrayGrid((), (), 1, 1)
    row, length = math.prod(sizes[axis + 1 :]), sizes[axis]
    inner = min(length, max(1, INNER_BYTES // (row * itemsize))) if sharded else 1
    rows = _rows(length, row, target_elements, inner)
    before, after = (1,) * axis, tuple(sizes[axis + 1 :])
    objects, chunks = (*before, rows, *after), (*before, inner if sharded else rows, *after)
    return ArrayGrid(objects, chunks, rows * row, length * row)


def _rows(length: int, row: int, target_elements: int, multiple: int) -> int:
    """Choose how many rows an object has, so that all objects are about equal and the last is not mostly padding."""
    most = max(1, target_elements // row)
    even = length if most >= length else -(-length // -(-length // most))
    step = math.lcm(multiple, _STEP_ELEMENTS // math.gcd(_STEP_ELEMENTS, row))
    unit = step if 8 * step <= even < length else multiple
    return -(-even // unit) * unit


def folder_name(name: str) -> str:
    """Name the folder of a tensor: by the tensor's name if no other file could have that name, else by a coded name."""
    if _PLAIN_NAME.fullmatch(name) and not _FILE_SUFFIXES.search(name) and not _OTHER_NAMES.match(name):
        return name
    return f"{quote(name, safe='')[:120]}%{xxhash.xxh3_64_hexdigest(name.encode('utf-8', 'surrogatepass'))}"


def array_document(array: PlacedArray, codec: str) -> dict[str, Any]:
    """Make the Zarr v3 metadata of an array."""
    grid = array.grid
    codecs = chunk_codecs(codec, array.dtype.itemsize)
    if grid.chunk_shape != grid.object_shape:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        inner = {"chunk_shape": list(grid.chunk_shape), "codecs": codecs, "index_codecs": index}
        codecs = [{"name": "sharding_indexed", "configuration": {**inner, "index_location": "end"}}]
    attributes = {"safetensors_dtype": array.dtype.name}
    if folder_name(array.name) != array.name:
        attributes[NAME_ATTRIBUTE] = array.name
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(array.shape),
        "data_type": array.dtype.zarr_name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(grid.object_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if array.dtype.name == "BOOL" else 0,
        "codecs": codecs,
        "attributes": attributes,
    }


def chunk_codecs(codec: str, itemsize: int) -> list[dict[str, Any]]:
    """List the codecs of a chunk, with the fastest settings, because slower ones hardly make random weights smaller."""
    first: dict[str, Any] = {"name": "bytes"}
    if itemsize > 1:
        first["configuration"] = {"endian": "little"}
    compressors: dict[str, dict[str, Any]] = {
        "zstd": {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        "blosc": {
            "name": "blosc",
            "configuration": {
                "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": itemsize, "blocksize": 0,
            },
        },
    }  # fmt: skip
    return [first, *([compressors[codec]] if codec in compressors else []), {"name": "crc32c"}]


def encode(document: Mapping[str, Any]) -> bytes:
    """Encode a metadata document as JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
