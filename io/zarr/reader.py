"""Reading Zarr checkpoints, version 2 or 3: a folder, a zip file or an address with one array for each tensor.

The name of a tensor is the path of its array with dots in place of slashes: the paths ``target/encoder/kernel`` and
``target.encoder.kernel`` both give ``target.encoder.kernel``. The attribute ``tensor_name`` of an array takes
precedence. Arrays are found anywhere in the tree, whether their groups have metadata documents or, as T5X writes them,
have none.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import xxhash

from dovetail.io.checkpoint import Checkpoint, FileFingerprint, TensorInfo
from dovetail.io.errors import MissingFileError, UnsupportedError, ZarrError
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.smallfile import is_named
from dovetail.io.files.strict_json import JsonDefectError, brief, decode_json
from dovetail.io.formats.header import MAX_NAME_LENGTH
from dovetail.io.zarr.chunk_pool import pool
from dovetail.io.zarr.direct import direct_codec
from dovetail.io.zarr.document import ArrayDocument, check_document, parse_document
from dovetail.io.zarr.oddities import count_objects, missing_note, tiny_note
from dovetail.io.zarr.place import WHOLE, FolderPlace, Place
from dovetail.io.zarr.prints import RemoteFingerprint, list_chunks
from dovetail.io.zarr.remote import RemotePlace, check_zarr_address
from dovetail.io.zarr.source import ZarrSource
from dovetail.io.zarr.tree import MAX_ARRAYS, V2_NAME, V3_NAME, ArrayFile, find_arrays, read_small
from dovetail.io.zarr.zip import ZipPlace

LOOKED_FOR: Final = "a Zarr group or a tree of Zarr arrays"
"""What a Zarr checkpoint is, for messages about places that hold none."""

METADATA_ATTRIBUTE: Final = "safetensors_metadata"
"""Attribute of the group that holds the free-form metadata, such as a safetensors header holds."""

_GROUP_NAMES: Final = (V3_NAME, ".zgroup", V2_NAME, ".zmetadata")
_CONSOLIDATED_NAME: Final = ".zmetadata"
_OCDBT_NAME: Final = "manifest.ocdbt"
_MAX_CONSOLIDATED_BYTES: Final = 100_000_000  # as long as the longest safetensors header
_MOST_SEARCHED: Final = 10_000
"""Most folder entries that are searched to find out whether a folder holds an array."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An array that was found."""

    path: str
    """Path of the array in the checkpoint; empty if the checkpoint is itself an array."""
    document: ArrayDocument
    """Metadata of the array."""
    newest_ns: int
    """Latest modification time of the objects, in nanoseconds since 1970; 2**63 where the place does not know it."""
    stored: int | None = None
    """Number of chunks, or of shards, that are stored; None where the place was not asked for a list."""

    @property
    def prefix(self) -> str:
        return f"{self.path}/" if self.path else ""


def is_there(folder: Path) -> bool:
    """Tell whether a folder is a Zarr group or array, or holds arrays."""
    if any(is_named(folder / name) for name in _GROUP_NAMES):
        return True
    return next(find_arrays(folder, _MOST_SEARCHED), None) is not None


def refuse_ocdbt(folder: Path) -> None:
    """Refuse an Orbax checkpoint in the OCDBT format, which looks like Zarr but is not.

    Raises
    ------
    UnsupportedError
        The folder holds such a checkpoint.

    """
    if (folder / _OCDBT_NAME).exists():
        raise UnsupportedError(
            f"{folder} is an Orbax checkpoint in the OCDBT format ({_OCDBT_NAME})",
            LOOKED_FOR,
            "save it with use_ocdbt=False",
        )


@collector_paused()
def read_folder(path: Path) -> Checkpoint:
    """Read a Zarr checkpoint in a folder; the errors are those of `dovetail.io.read_checkpoint`."""
    place = FolderPlace(str(path))
    found: list[_Found] = []
    metadata, files = _read_group(path)
    for file in find_arrays(path):
        document, fingerprint = _read_array(path, file)
        chunks = list_chunks(path, file.path)
        found.append(_Found(file.path, document, max(chunks.mtime_ns, fingerprint.mtime_ns), chunks.count))
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
    found = _counted(_read_listed(place, names), names)
    file = FileFingerprint(path.name, status.st_size, status.st_mtime_ns, digest.hexdigest())
    root = place.read(V3_NAME, WHOLE, _MAX_CONSOLIDATED_BYTES, 2**63)
    metadata = {} if root is None else _metadata(_decode(root, f"{path}/{V3_NAME}"))
    return _checkpoint(path, None, place, found, metadata, [file])


@collector_paused()
def read_address(address: str) -> Checkpoint:
    """Read a Zarr checkpoint at an address.

    With consolidated metadata, one or two requests are enough. Without it, all objects are listed, which some servers
    do not support, and the document of every array is requested.
    """
    address = check_zarr_address(address)
    place = RemotePlace(address)
    pool().clear()  # it may hold chunks of an earlier version, whose keys are the same
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
    found = _counted(_read_listed(place, keys), keys)
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
    tensors: dict[str, TensorInfo] = {}
    texts: dict[bytes, bytes] = {}  # arrays with equal texts share one object
    lacking: list[tuple[str, int, int]] = []
    counts: list[tuple[str, int, int]] = []
    for item in found:
        document, where = item.document, f"{place.label}/{item.path}".rstrip("/")
        name = _name(document.name or item.path.replace("/", ".") or Path(place.label).stem, where)
        if name in tensors:
            raise ZarrError(f"two arrays of {place.label} are called {name!r}", "one name for one tensor", "rename one")
        text = texts.setdefault(document.text, document.text)
        try:
            if direct_codec(text) is None:
                _try_codec(document)
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
        counts.append((name, document.chunk_count, document.chunk_bytes))
        if item.stored is not None and item.stored < (expected := document.object_count):
            lacking.append((name, item.stored, expected))
    if not tensors:
        raise MissingFileError(f"{place.label} holds no Zarr array", LOOKED_FOR, "check the path")
    notes = (*missing_note(place.label, lacking), *tiny_note(place.label, counts))
    return Checkpoint(path, folder, tensors, metadata, tuple(files), notes=notes)


def _try_codec(document: ArrayDocument) -> None:
    """Find out whether zarr-python takes the metadata of an array.

    Raises
    ------
    ZarrError
        It does not.

    """
    from dovetail.io.zarr.codecs import open_codec

    open_codec(document.text, document.chunk_shape, document.object_shape, sharded=document.sharded)


def _counted(found: Iterable[_Found], keys: Iterable[str]) -> list[_Found]:
    """Say of arrays how many of the listed objects are theirs."""
    arrays = list(found)
    counts = count_objects((item.path for item in arrays), keys)
    return [replace(item, stored=counts[item.path]) for item in arrays]


def _name(name: str, where: str) -> str:
    """Check a tensor's name by the rules for names in safetensors headers."""
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
    """Read the free-form metadata of the group at the root, and fingerprint its document; nothing without a group."""
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
    """Find the free-form metadata in the document of a group; empty if the group has none."""
    attributes = document.get("attributes")
    found = attributes.get(METADATA_ATTRIBUTE) if isinstance(attributes, dict) else None
    if not isinstance(found, dict) or not all(type(value) is str for value in found.values()):
        return {}
    return found


def _consolidated(document: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Find consolidated metadata: the arrays' documents by path, or by key in version 2."""
    inner = document.get("consolidated_metadata") if name == V3_NAME else document
    found = inner.get("metadata") if isinstance(inner, dict) else None
    return found if isinstance(found, dict) else None


def _read_consolidated(place: Place, documents: Mapping[str, Any]) -> Iterator[_Found]:
    for key in sorted(documents):
        document = documents[key]
        if type(document) is not dict:
            raise ZarrError(
                f"{place.label} has the metadata {brief(document)} for {brief(key)}",
                "an object",
                "write the checkpoint again",
            )
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
    """Read the metadata of the arrays among the listed objects of a place."""
    keys = set(keys)
    arrays: set[str] = set()
    for key in sorted(keys, key=lambda key: (key.count("/"), key)):
        path, _, name = key.rpartition("/")
        version = {V3_NAME: 3, V2_NAME: 2}.get(name)
        parents = path.split("/")
        if version is None or (version == 2 and f"{path}/{V3_NAME}".lstrip("/") in keys):
            continue
        if any("/".join(parents[:depth]) in arrays for depth in range(len(parents))):
            continue  # a folder within an array holds only its chunks
        _check_path(place, path)
        raw = place.read(key, WHOLE, _MAX_CONSOLIDATED_BYTES, 2**63)
        if raw is None:
            raise ZarrError(f"{place.label}/{key} vanished while it was read", "an array's metadata", "run again")
        document = parse_document(raw, version, f"{place.label}/{key}") if path or version == 2 else _root(raw, place)
        if document is not None:
            arrays.add(path)
            yield _Found(path, document, 2**63)


def _root(raw: bytes, place: Place) -> ArrayDocument | None:
    """Read the document of the root, which may be long because it can include those of all arrays."""
    return check_document(_decode(raw, f"{place.label}/{V3_NAME}"), 3, f"{place.label}/{V3_NAME}")


def _check_path(place: Place, path: str) -> None:
    """Refuse a path that leads out of the checkpoint: paths come from documents that are not trusted."""
    if path and any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in path.split("/")):
        raise ZarrError(f"{place.label} names an array {brief(path)}", "a plain path", "write the checkpoint again")


def _remote_print(place: RemotePlace, key: str, raw: bytes) -> RemoteFingerprint:
    size_bytes, version = place.fingerprint(key)
    return RemoteFingerprint(key, size_bytes, 0, xxhash.xxh3_128_hexdigest(raw), place=place, version=version)
