"""Reading Zarr checkpoints, version 2 or 3: a folder, a zip file or an address of arrays, one a tensor.

A tensor is called what its array's path is, with dots for slashes: ``target/encoder/kernel`` and
``target.encoder.kernel`` are both ``target.encoder.kernel``. An attribute ``tensor_name`` of the array overrides this.
Arrays are found wherever they are in the tree: groups need no documents of their own, as T5X writes none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import xxhash

from dovetail.io.checkpoint import Checkpoint, FileFingerprint, TensorInfo
from dovetail.io.errors import MissingFileError, UnsupportedError, ZarrError
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.strict_json import JsonDefectError, brief, decode_json
from dovetail.io.formats.header import MAX_NAME_LENGTH
from dovetail.io.zarr.chunk_pool import POOL
from dovetail.io.zarr.document import ArrayDocument, check_document, parse_document
from dovetail.io.zarr.place import WHOLE, FolderPlace, Place
from dovetail.io.zarr.prints import RemoteFingerprint, list_chunks
from dovetail.io.zarr.remote import RemotePlace, check_address
from dovetail.io.zarr.source import ZarrSource
from dovetail.io.zarr.tree import MAX_ARRAYS, V2_NAME, V3_NAME, ArrayFile, find_arrays, read_small
from dovetail.io.zarr.zip import ZipPlace

LOOKED_FOR: Final = "a Zarr group or a tree of Zarr arrays"
"""What makes something a Zarr checkpoint."""

METADATA_ATTRIBUTE: Final = "safetensors_metadata"
"""Attribute of the group that holds what a safetensors header has as metadata."""

_GROUP_NAMES: Final = (V3_NAME, ".zgroup", V2_NAME, ".zmetadata")
_CONSOLIDATED_NAME: Final = ".zmetadata"
_OCDBT_NAME: Final = "manifest.ocdbt"
_MAX_CONSOLIDATED_BYTES: Final = 100_000_000  # as long as the longest safetensors header
_MOST_SEARCHED: Final = 10_000
"""Folder entries that are looked at to tell whether there is any array."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An array that was found."""

    path: str
    """Its path in the checkpoint; empty for the checkpoint itself."""
    document: ArrayDocument
    """Its metadata."""
    newest_ns: int
    """Latest modification time of its objects, as far as the place tells."""

    @property
    def prefix(self) -> str:
        return f"{self.path}/" if self.path else ""


def is_there(folder: Path) -> bool:
    """Tell whether a folder is a Zarr group or array, or holds arrays."""
    if any(os.path.lexists(folder / name) for name in _GROUP_NAMES):
        return True
    return next(find_arrays(folder, _MOST_SEARCHED), None) is not None


def refuse_ocdbt(folder: Path) -> None:
    """Refuse a checkpoint of a kind that only looks like Zarr."""
    if (folder / _OCDBT_NAME).exists():
        raise UnsupportedError(
            f"{folder} is an Orbax checkpoint in the OCDBT format ({_OCDBT_NAME})",
            LOOKED_FOR,
            "save it with use_ocdbt=False",
        )


@collector_paused()
def read_folder(path: Path) -> Checkpoint:
    """Read a Zarr checkpoint in a folder; raises as `dovetail.io.read_checkpoint` does."""
    place = FolderPlace(str(path))
    found: list[_Found] = []
    metadata, files = _read_group(path)
    for file in find_arrays(path):
        document, fingerprint = _read_array(path, file)
        chunks = list_chunks(path, file.path)
        found.append(_Found(file.path, document, max(chunks.mtime_ns, fingerprint.mtime_ns)))
        files += [fingerprint, chunks]
    return _checkpoint(path, path, place, found, metadata, files)


@collector_paused()
def read_zip(path: Path) -> Checkpoint:
    """Read a Zarr checkpoint in a zip file."""
    status = path.stat()
    place = ZipPlace(str(path), status.st_size, status.st_mtime_ns)
    digest = xxhash.xxh3_128()
    names = []
    for info in sorted(place.infos(), key=lambda info: info.filename):
        names.append(info.filename)
        digest.update(f"{info.filename}\0{info.file_size}\0{info.CRC}\0".encode("utf-8", "surrogatepass"))
    found = list(_read_listed(place, names))
    file = FileFingerprint(path.name, status.st_size, status.st_mtime_ns, digest.hexdigest())
    root = place.read(V3_NAME, WHOLE, _MAX_CONSOLIDATED_BYTES, 2**63)
    metadata = {} if root is None else _metadata(_decode(root, f"{path}/{V3_NAME}"))
    return _checkpoint(path, None, place, found, metadata, [file])


@collector_paused()
def read_address(address: str) -> Checkpoint:
    """Read a Zarr checkpoint at an address.

    Consolidated metadata spares asking for every array; without it, the place must be one that lists its objects.
    """
    address = check_address(address)
    place = RemotePlace(address)
    POOL.clear()  # it may hold chunks of an earlier version, whose keys are the same
    metadata: Mapping[str, str] = {}
    for name in (V3_NAME, _CONSOLIDATED_NAME):
        raw = place.read(name, WHOLE, _MAX_CONSOLIDATED_BYTES, 2**63)
        if raw is None:
            continue
        document = _decode(raw, f"{address}/{name}")
        metadata = _metadata(document) if name == V3_NAME else metadata
        documents = _consolidated(document, name)
        if documents is not None:
            found = list(_read_consolidated(place, documents))
            return _checkpoint(address, None, place, found, metadata, [_remote_print(place, name, raw)])
    keys = list(place.keys(MAX_ARRAYS))
    found = list(_read_listed(place, keys))
    if not found:
        raise MissingFileError(f"there is no checkpoint at {address}", LOOKED_FOR, "check the address")
    files: list[FileFingerprint] = []
    for item in found:
        key = item.prefix + (V3_NAME if item.document.version == 3 else V2_NAME)
        files.append(_remote_print(place, key, item.document.text))
    return _checkpoint(address, None, place, found, metadata, files)


def _checkpoint(
    path: Path | str,
    folder: Path | None,
    place: Place,
    found: Iterable[_Found],
    metadata: Mapping[str, str],
    files: Iterable[FileFingerprint],
) -> Checkpoint:
    from dovetail.io.zarr.codecs import open_codec

    tensors: dict[str, TensorInfo] = {}
    texts: dict[bytes, bytes] = {}  # arrays that are alike share one
    for item in found:
        document, where = item.document, f"{place.label}/{item.path}".rstrip("/")
        name = _name(document.name or item.path.replace("/", ".") or Path(place.label).stem, where)
        if name in tensors:
            raise ZarrError(f"two arrays of {place.label} are called {name!r}", "one name for one tensor", "rename one")
        text = texts.setdefault(document.text, document.text)
        try:
            open_codec(text, document.chunk_shape, document.object_shape, sharded=document.sharded)
        except ZarrError as error:
            raise ZarrError(f"{where}: {error.what}", error.expected, error.action) from error
        source = ZarrSource(
            place,
            item.prefix,
            text,
            document.shape,
            document.dtype.itemsize,
            document.chunk_shape,
            document.object_shape,
            document.sharded,
            item.newest_ns,
        )
        tensors[name] = TensorInfo(name, document.dtype, document.shape, source)
    if not tensors:
        raise MissingFileError(f"{place.label} holds no Zarr array", LOOKED_FOR, "check the path")
    return Checkpoint(path, folder, tensors, metadata, tuple(files))


def _name(name: str, where: str) -> str:
    """Check a tensor's name by the rules for those of safetensors headers."""
    if not name.isprintable() or "/" in name or "\\" in name or not name.strip(".") or len(name) > MAX_NAME_LENGTH:
        raise UnsupportedError(
            f"the array {where} gives the tensor name {brief(name)}",
            f"at most {MAX_NAME_LENGTH} printable characters without slashes",
            "rename the array",
        )
    return name


def _read_array(folder: Path, file: ArrayFile) -> tuple[ArrayDocument, FileFingerprint]:
    path = folder / file.key
    status = path.stat()
    if file.document is None:
        document = parse_document(file.raw, file.version, str(path))
    else:
        document = check_document(file.document, file.version, str(path))
    if document is None or not stat.S_ISREG(status.st_mode) or status.st_size != len(file.raw):
        raise ZarrError(f"{path} changed while it was read", "an array's metadata", "run again")
    return document, FileFingerprint(file.key, status.st_size, status.st_mtime_ns, xxhash.xxh3_128_hexdigest(file.raw))


def _read_group(folder: Path) -> tuple[Mapping[str, str], list[FileFingerprint]]:
    """Read the root's metadata, and fingerprint it if it is a group's."""
    path = folder / V3_NAME
    if not path.is_file():
        return {}, []
    raw = read_small(folder, V3_NAME, _MAX_CONSOLIDATED_BYTES)
    document, status = _decode(raw, str(path)), path.stat()
    if document.get("node_type") != "group":
        return {}, []
    file = FileFingerprint(V3_NAME, status.st_size, status.st_mtime_ns, xxhash.xxh3_128_hexdigest(raw))
    return _metadata(document), [file]


def _decode(raw: bytes, where: str) -> dict[str, Any]:
    if len(raw) > _MAX_CONSOLIDATED_BYTES:
        raise ZarrError(f"{where} is too large", f"at most {_MAX_CONSOLIDATED_BYTES} bytes", "write it again")
    try:
        return decode_json(raw, constants=True)
    except JsonDefectError as error:
        raise ZarrError(f"{where} {error}", "a JSON object", "write the checkpoint again") from error


def _metadata(document: Mapping[str, Any]) -> Mapping[str, str]:
    """Find what a safetensors header had as metadata, if the group keeps such."""
    attributes = document.get("attributes")
    found = attributes.get(METADATA_ATTRIBUTE) if isinstance(attributes, dict) else None
    if not isinstance(found, dict) or not all(type(value) is str for value in found.values()):
        return {}
    return found


def _consolidated(document: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Find consolidated metadata: documents by path, or by key for version 2."""
    inner = document.get("consolidated_metadata") if name == V3_NAME else document
    found = inner.get("metadata") if isinstance(inner, dict) else None
    return found if isinstance(found, dict) else None


def _read_consolidated(place: Place, documents: Mapping[str, Any]) -> Iterator[_Found]:
    for key in sorted(documents):
        document = documents[key]
        if type(document) is not dict:
            raise ZarrError(f"{place.label} has the metadata {brief(document)} for {brief(key)}", "an object", "")
        path, version = key, 3
        if document.get("zarr_format") != 3:
            path, _, name = key.rpartition("/")
            if name != V2_NAME:
                continue
            version = 2
        _check_path(place, path)
        array = check_document(document, version, f"{place.label}/{path}")
        if array is not None:
            yield _Found(path, array, 2**63)


def _read_listed(place: Place, keys: Iterable[str]) -> Iterator[_Found]:
    """Read the arrays among the objects of a place."""
    keys = set(keys)
    arrays: set[str] = set()
    for key in sorted(keys, key=lambda key: (key.count("/"), key)):
        path, _, name = key.rpartition("/")
        version = {V3_NAME: 3, V2_NAME: 2}.get(name)
        parents = path.split("/")
        if version is None or (version == 2 and f"{path}/{V3_NAME}".lstrip("/") in keys):
            continue
        if any("/".join(parents[:depth]) in arrays for depth in range(len(parents))):
            continue  # inside an array there are only its chunks
        _check_path(place, path)
        raw = place.read(key, WHOLE, _MAX_CONSOLIDATED_BYTES, 2**63)
        if raw is None:
            raise ZarrError(f"{place.label}/{key} vanished while it was read", "an array's metadata", "run again")
        document = parse_document(raw, version, f"{place.label}/{key}") if path or version == 2 else _root(raw, place)
        if document is not None:
            arrays.add(path)
            yield _Found(path, document, 2**63)


def _root(raw: bytes, place: Place) -> ArrayDocument | None:
    """Read the document of the root, which may be long: it may have those of all arrays inside."""
    return check_document(_decode(raw, f"{place.label}/{V3_NAME}"), 3, f"{place.label}/{V3_NAME}")


def _check_path(place: Place, path: str) -> None:
    """Refuse paths that lead elsewhere: they come from documents, not from a file system."""
    if path and any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in path.split("/")):
        raise ZarrError(f"{place.label} names an array {brief(path)}", "a plain path", "write the checkpoint again")


def _remote_print(place: RemotePlace, key: str, raw: bytes) -> RemoteFingerprint:
    size_bytes, version = place.fingerprint(key)
    return RemoteFingerprint(key, size_bytes, 0, xxhash.xxh3_128_hexdigest(raw), place=place, version=version)
