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
from dovetail.io.collector import collector_paused
from dovetail.io.errors import CheckpointError, MissingFileError, UnsupportedError, ZarrError
from dovetail.io.header import MAX_NAME_LENGTH
from dovetail.io.index import resolve_in_folder
from dovetail.io.quantised import read_config, refuse_quantised
from dovetail.io.smallfile import read_at_most
from dovetail.io.strict_json import JsonDefectError, brief, decode_json
from dovetail.io.zarr_document import MAX_DOCUMENT_BYTES, ArrayDocument, check_document, parse_document
from dovetail.io.zarr_place import WHOLE, FolderPlace, Place, RemotePlace, ZipPlace, check_address
from dovetail.io.zarr_prints import RemoteFingerprint, list_chunks
from dovetail.io.zarr_source import ZarrSource

LOOKED_FOR: Final = "a Zarr group or a tree of Zarr arrays"
"""What makes something a Zarr checkpoint."""

V3_NAME: Final = "zarr.json"
V2_NAME: Final = ".zarray"
METADATA_ATTRIBUTE: Final = "safetensors_metadata"
"""Attribute of the group that holds what a safetensors header has as metadata."""

_GROUP_NAMES: Final = (V3_NAME, ".zgroup", V2_NAME, ".zmetadata")
_CONSOLIDATED_NAME: Final = ".zmetadata"
_OCDBT_NAME: Final = "manifest.ocdbt"
_MAX_DEPTH: Final = 64
_MAX_ARRAYS: Final = 1_000_000
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
    return next(_find_arrays(folder, _MOST_SEARCHED), None) is not None


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
    files: list[FileFingerprint] = list(_group_files(path))
    for array, version in _find_arrays(path, None):
        name = V3_NAME if version == 3 else V2_NAME
        key = f"{array}/{name}" if array else name
        document, fingerprint = _read_document(path, key, version)
        chunks = list_chunks(path, array)
        newest = max(chunks.mtime_ns, fingerprint.mtime_ns)
        found.append(_Found(array, document, newest))
        files += [fingerprint, chunks]
    metadata = _group_metadata(path)
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
    keys = list(place.keys(_MAX_ARRAYS))
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
    from dovetail.io.zarr_codecs import open_codec

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
    config = read_config(folder) if folder else None
    refuse_quantised(path, ((tensor.name, tensor.dtype) for tensor in tensors.values()), config)
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


def _find_arrays(folder: Path, most_searched: int | None) -> Iterator[tuple[str, int]]:
    """Find the arrays in a folder, in order of path; gives the path and the Zarr format of each.

    Parameters
    ----------
    folder
        The checkpoint.
    most_searched
        Entries after which the search ends; None for no limit.

    """
    pending, searched, count = [""], 0, 0
    while pending:
        path = pending.pop()
        if path.count("/") >= _MAX_DEPTH:
            raise ZarrError(f"{folder}/{path} is {_MAX_DEPTH} folders deep", "a flatter tree", "check the path")
        with os.scandir(folder / path) as entries:
            names = {entry.name: entry for entry in entries}
        searched += len(names)
        if most_searched is not None and searched > most_searched:
            return
        version = 3 if V3_NAME in names and _is_array(folder, path) else 2 if V2_NAME in names else None
        if version is not None:
            yield path, version
            if (count := count + 1) > _MAX_ARRAYS:
                raise ZarrError(f"{folder} holds more than {count - 1} arrays", "fewer", "check the path")
            continue
        pending += [
            f"{path}/{name}" if path else name
            for name in sorted(names, reverse=True)
            if names[name].is_dir(follow_symlinks=False) and not name.startswith(".")
        ]


def _is_array(folder: Path, path: str) -> bool:
    """Whether a ``zarr.json`` is an array's; one that cannot be told is taken for one, and then refused."""
    try:
        document = _decode(_read_small(folder, f"{path}/{V3_NAME}" if path else V3_NAME, _MAX_CONSOLIDATED_BYTES), "")
    except CheckpointError:
        return True
    return document.get("node_type") != "group"


def _read_small(folder: Path, key: str, limit_bytes: int) -> bytes:
    """Read a document of a folder that is not trusted."""
    parent, _, name = key.rpartition("/")
    path = folder / key
    if path.is_symlink():
        _stay_inside(folder, parent, name)
    try:
        return read_at_most(path, limit_bytes + 1)
    except OSError as error:
        raise MissingFileError(f"cannot open {path} ({error.strerror})", "a metadata document", "check it") from error


def _stay_inside(folder: Path, parent: str, name: str) -> None:
    """Refuse a link that leads outside the checkpoint, other than into the blobs of a hub cache."""
    try:
        resolve_in_folder(folder, f"{parent}/{name}" if parent else name, "its folder")
    except CheckpointError as error:
        raise ZarrError(error.what, error.expected, error.action) from error


def _read_document(folder: Path, key: str, version: int) -> tuple[ArrayDocument, FileFingerprint]:
    path = folder / key
    raw = _read_small(folder, key, MAX_DOCUMENT_BYTES)
    status = path.stat()
    document = parse_document(raw, version, str(path))
    if document is None or not stat.S_ISREG(status.st_mode) or status.st_size != len(raw):
        raise ZarrError(f"{path} changed while it was read", "an array's metadata", "run again")
    return document, FileFingerprint(key, status.st_size, status.st_mtime_ns, xxhash.xxh3_128_hexdigest(raw))


def _group_files(folder: Path) -> Iterator[FileFingerprint]:
    """Fingerprint the root group's document."""
    path = folder / V3_NAME
    if path.is_file() and not _is_array(folder, ""):
        raw = _read_small(folder, V3_NAME, _MAX_CONSOLIDATED_BYTES)
        status = path.stat()
        yield FileFingerprint(V3_NAME, status.st_size, status.st_mtime_ns, xxhash.xxh3_128_hexdigest(raw))


def _group_metadata(folder: Path) -> Mapping[str, str]:
    path = folder / V3_NAME
    if not path.is_file():
        return {}
    return _metadata(_decode(_read_small(folder, V3_NAME, _MAX_CONSOLIDATED_BYTES), str(path)))


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
    return RemoteFingerprint(key, size_bytes, 0, xxhash.xxh3_128_hexdigest(raw), place, version)
