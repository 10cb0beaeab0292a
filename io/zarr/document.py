"""Strict reading of the metadata documents of Zarr arrays, versions 2 and 3, from untrusted sources.

Only the codecs on a list of names are accepted. Any other codec, such as those that unpickle objects, is refused before
any of its code is loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NoReturn

from dovetail.io.dtypes import DTYPES, DType
from dovetail.io.errors import UnsupportedError, ZarrError
from dovetail.io.files.strict_json import JsonDefectError, brief, decode_json
from dovetail.io.zarr.settings import check_settings

MAX_DOCUMENT_BYTES: Final = 16 * 2**20
"""Longest metadata document of one array, in bytes."""

MAX_SHARD_CHUNKS: Final = 2**20
"""Most chunks in one shard, because the index of a shard, 16 bytes for each chunk, is held in memory."""

NAME_ATTRIBUTE: Final = "tensor_name"
"""Attribute of an array that gives the tensor's name where the path of the array cannot."""

_MAX_DIMENSIONS: Final = 32
_MAX_CODECS: Final = 16

_V2_CODECS: Final = frozenset(
    {"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", "shuffle", "delta", "adler32", "crc32", "crc32c"}
    | {"fletcher32"}
)
_V3_CODECS: Final = frozenset(
    {"bytes", "endian", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed"}
    | {f"numcodecs.{name}" for name in _V2_CODECS}
)
_V3_KEPT: Final = (
    *("zarr_format", "node_type", "shape", "data_type"),
    *("chunk_grid", "chunk_key_encoding", "fill_value", "codecs"),
)
_V3_OTHERS: Final = ("attributes", "dimension_names", "storage_transformers", "consolidated_metadata")
_V3_DTYPES: Final[Mapping[str, DType]] = MappingProxyType({dtype.zarr_name: dtype for dtype in DTYPES.values()})
_V2_DTYPES: Final[Mapping[str, DType]] = MappingProxyType(
    {
        f"{order}{dtype.numpy_kind}": dtype
        for dtype in DTYPES.values()
        if dtype.numpy_kind
        for order in ("|" if dtype.itemsize == 1 else "<>")
    }
    | {dtype.zarr_name: dtype for dtype in DTYPES.values() if not dtype.numpy_kind}
)
*_OTHERS, _LAST = (dtype.zarr_name for dtype in DTYPES.values() if not dtype.numpy_kind)
_READABLE: Final = f"booleans, whole numbers, float16 to float64, {', '.join(_OTHERS)} or {_LAST}"


@dataclass(frozen=True, slots=True)
class ArrayDocument:
    """What the metadata document of an array says."""

    version: int
    """Zarr format: 2 or 3."""
    text: bytes
    """The document without attributes and other keys that decoding does not need, so that similar arrays share it."""
    dtype: DType
    """Element type."""
    shape: tuple[int, ...]
    """Dimensions."""
    chunk_shape: tuple[int, ...]
    """Dimensions of a chunk, which is decoded at a time; if the array has shards, of a chunk within a shard."""
    object_shape: tuple[int, ...]
    """Dimensions of a stored object, which is a shard if the array has shards, else a chunk."""
    name: str | None
    """The tensor's name from the attribute `NAME_ATTRIBUTE`; None without one."""

    @property
    def sharded(self) -> bool:
        """Whether the stored objects are shards."""
        return self.version == 3 and b'"sharding_indexed"' in self.text

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def object_count(self) -> int:
        """Number of stored objects that hold elements."""
        return self._count(self.object_shape)

    @property
    def chunk_count(self) -> int:
        """Number of chunks that hold elements."""
        return self._count(self.chunk_shape)

    def _count(self, wholes: tuple[int, ...]) -> int:
        return math.prod(-(-size // whole) for size, whole in zip(self.shape, wholes, strict=True))

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.chunk_shape) * self.dtype.itemsize


def parse_document(raw: bytes, version: int, where: str) -> ArrayDocument | None:
    """Read and check the metadata document of an array; ``None`` if it is the document of a group.

    Parameters
    ----------
    raw
        Content of ``zarr.json`` or ``.zarray``.
    version
        Zarr format: 2 or 3.
    where
        How messages name the document.

    Raises
    ------
    ZarrError
        If the document breaks the rules of the format.
    UnsupportedError
        If the dtype or one of the codecs cannot be read.

    """
    if len(raw) > MAX_DOCUMENT_BYTES:
        _fail(f"{where} is too large", f"at most {MAX_DOCUMENT_BYTES} bytes")
    try:
        document = decode_json(raw, constants=version == 2)  # zarr-python writes NaN into v2 attributes and fill values
    except JsonDefectError as error:
        _fail(f"{where} {error}", "a JSON object")
    return check_document(document, version, where)


def check_document(document: Mapping[str, Any], version: int, where: str) -> ArrayDocument | None:
    """Check a document that is decoded already; returns and raises as `parse_document` does."""
    if type(found := document.get("zarr_format")) is not int or found != version:
        _fail(f"{where} has zarr_format {brief(found)}", str(version))
    if version == 2:
        return _check_v2(document, where)
    kind = document.get("node_type")
    if kind == "group":
        return None
    if kind != "array":
        _fail(f"{where} has node_type {brief(kind)}", "array or group")
    return _check_v3(document, where)


def _check_v3(document: Mapping[str, Any], where: str) -> ArrayDocument:
    dtype = _find_dtype(document.get("data_type"), _V3_DTYPES, where)
    shape = _check_sizes(document.get("shape"), 0, "shape", where)
    grid = document.get("chunk_grid")
    if type(grid) is not dict or grid.get("name") != "regular" or type(grid.get("configuration")) is not dict:
        _fail(f"{where} has the chunk_grid {brief(grid)}", "a regular grid")
    objects = _check_sizes(grid["configuration"].get("chunk_shape"), 1, "chunk_shape", where)
    _check_size(objects, shape, dtype, where)
    if document.get("storage_transformers"):
        raise UnsupportedError(
            f"{where} has storage_transformers", "an array without any", "store the array without them"
        )
    for key, value in document.items():
        if key not in (*_V3_KEPT, *_V3_OTHERS) and not (type(value) is dict and value.get("must_understand") is False):
            raise UnsupportedError(
                f"{where} has {brief(key)}, which must be understood", "known keys", "convert it first"
            )
    chunks = objects
    codecs = _check_codecs(document.get("codecs"), where)
    if "sharding_indexed" in codecs:
        if len(codecs) > 1:
            raise UnsupportedError(
                f"{where} has codecs around its shards ({', '.join(codecs)})",
                "sharding_indexed alone, with codecs inside",
                "store the array without the outer codecs",
            )
        chunks = _check_shards(document["codecs"][0].get("configuration"), objects, where)
    text = json.dumps({key: document[key] for key in _V3_KEPT if key in document}, sort_keys=True).encode()
    return ArrayDocument(3, text, dtype, shape, chunks, objects, _given_name(document.get("attributes"), where))


def _check_v2(document: Mapping[str, Any], where: str) -> ArrayDocument:
    dtype = _find_dtype(document.get("dtype"), _V2_DTYPES, where)
    shape = _check_sizes(document.get("shape"), 0, "shape", where)
    chunks = _check_sizes(document.get("chunks"), 1, "chunks", where)
    _check_size(chunks, shape, dtype, where)
    filters = document.get("filters") or []
    if type(filters) is not list:
        _fail(f"{where} has the filters {brief(filters)}", "a list or null")
    _check_count(filters, where)
    compressor = document.get("compressor")
    for codec in (*filters, *(() if compressor is None else (compressor,))):
        name = codec.get("id") if type(codec) is dict else None
        if type(name) is not str or name not in _V2_CODECS:
            _refuse_codec(where, name if type(codec) is dict else codec)
        check_settings(name, codec, where)
    if document.get("order", "C") not in ("C", "F"):
        _fail(f"{where} has the order {brief(document['order'])}", "C or F")
    kept = {key: document.get(key) for key in ("zarr_format", "shape", "chunks", "dtype", "compressor", "fill_value")}
    kept |= {"filters": filters or None, "order": document.get("order", "C")}
    kept["dimension_separator"] = document.get("dimension_separator", ".")
    text = json.dumps(kept, sort_keys=True).encode()
    return ArrayDocument(2, text, dtype, shape, chunks, chunks, None)


def _find_dtype(found: Any, known: Mapping[str, DType], where: str) -> DType:
    if type(found) is dict and not found.get("configuration"):
        found = found.get("name")
    dtype = known.get(found) if type(found) is str else None
    if dtype is None:
        raise UnsupportedError(
            f"{where} has the dtype {brief(found)}",
            _READABLE,
            "convert the array first",
        )
    return dtype


def dtype_of(data_type: Any) -> DType:
    """Give the dtype of a document of version 3 that was checked."""
    return _V3_DTYPES[data_type["name"] if type(data_type) is dict else data_type]


def _check_sizes(found: Any, least: int, what: str, where: str) -> tuple[int, ...]:
    if (
        type(found) is not list
        or len(found) > _MAX_DIMENSIONS
        or not all(type(size) is int and least <= size < 2**63 for size in found)
    ):
        _fail(f"{where} has the {what} {brief(found)}", f"a list of sizes of at least {least}")
    return tuple(found)


def _check_size(chunks: tuple[int, ...], shape: tuple[int, ...], dtype: DType, where: str) -> None:
    if len(chunks) != len(shape):
        _fail(f"{where} has chunks of {len(chunks)} dimensions", f"{len(shape)}, as its shape has")
    for what, sizes in (("shape", shape), ("chunk shape", chunks)):
        if math.prod(sizes) * dtype.itemsize >= 2**62:
            _fail(f"{where} has the {what} {brief(list(sizes))}", "fewer than 2^62 bytes")


def _check_codecs(found: Any, where: str) -> list[str]:
    if type(found) is not list or not found:
        _fail(f"{where} has the codecs {brief(found)}", "a list of codecs")
    names = []
    for codec in found:
        name = codec.get("name") if type(codec) is dict else codec
        if type(name) is not str or name not in _V3_CODECS:
            _refuse_codec(where, name)
        if name.startswith("numcodecs."):
            check_settings(name.removeprefix("numcodecs."), codec.get("configuration") or {}, where)
        names.append(name)
    _check_count(names, where)
    return names


def _check_count(codecs: Sequence[Any], where: str) -> None:
    if len(codecs) > _MAX_CODECS:
        _fail(f"{where} has {len(codecs)} codecs", f"at most {_MAX_CODECS}")


def _check_shards(configuration: Any, objects: tuple[int, ...], where: str) -> tuple[int, ...]:
    if type(configuration) is not dict:
        _fail(f"{where} has shards without a configuration", "an object with the chunk_shape and the codecs")
    chunks = _check_sizes(configuration.get("chunk_shape"), 1, "chunk_shape of a shard", where)
    if len(chunks) != len(objects) or any(size % chunk for size, chunk in zip(objects, chunks, strict=True)):
        _fail(f"{where} has shards of {list(objects)} that chunks of {list(chunks)} do not divide", "chunks that do")
    if math.prod(objects) // math.prod(chunks) > MAX_SHARD_CHUNKS:
        _fail(f"{where} has more than {MAX_SHARD_CHUNKS} chunks in a shard", f"at most {MAX_SHARD_CHUNKS}")
    for key in ("codecs", "index_codecs"):
        names = _check_codecs(configuration.get(key), where)
        if "sharding_indexed" in names:
            raise UnsupportedError(
                f"{where} has shards within shards",
                "shards of plain chunks",
                "store the array without the inner shards",
            )
    return chunks


def _given_name(attributes: Any, where: str) -> str | None:
    if type(attributes) is not dict or NAME_ATTRIBUTE not in attributes:
        return None
    name = attributes[NAME_ATTRIBUTE]
    if type(name) is not str:
        _fail(f"{where} has the attribute {NAME_ATTRIBUTE} {brief(name)}", "a tensor's name")
    return name


def _refuse_codec(where: str, name: Any) -> NoReturn:
    raise UnsupportedError(
        f"{where} is stored with the codec {brief(name)}",
        "zstd, blosc, gzip, lz4, zlib, bz2, lzma, shuffle, delta, transpose, a checksum or shards",
        "store the array with one of these",
    )


def _fail(what: str, expected: str) -> NoReturn:
    raise ZarrError(what, expected, "write the checkpoint again")
