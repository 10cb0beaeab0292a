"""Finding the arrays in a folder, which may be a Zarr group or a tree of arrays without a group."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dovetail.io.errors import MissingFileError, ZarrError
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.files.strict_json import JsonDefectError, decode_json
from dovetail.io.zarr.document import MAX_DOCUMENT_BYTES
from dovetail.io.zarr.prints import stay_inside

V3_NAME: Final = "zarr.json"
"""Name of the metadata document of an array or a group of version 3."""

V2_NAME: Final = ".zarray"
"""Name of the metadata document of an array of version 2."""

MAX_ARRAYS: Final = 1_000_000
"""Most arrays that a checkpoint may have."""

_MAX_DEPTH: Final = 64
_MAX_GROUP_BYTES: Final = 100_000_000  # as long as the longest safetensors header: it may hold all arrays' documents


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """The metadata document of an array, as found in the folder and not checked yet."""

    path: str
    """Path of the array in the checkpoint; empty if the checkpoint is itself an array."""
    version: int
    """Zarr format: 2 or 3."""
    raw: bytes
    """Content of the document."""
    document: Mapping[str, Any] | None
    """The decoded document; None for version 2, and for a document that cannot be decoded."""

    @property
    def key(self) -> str:
        """Path of the document in the checkpoint."""
        name = V3_NAME if self.version == 3 else V2_NAME
        return f"{self.path}/{name}" if self.path else name


def find_arrays(folder: Path, most_searched: int | None = None) -> Iterator[ArrayFile]:
    """Find the arrays in a folder, in order of path.

    Parameters
    ----------
    folder
        The checkpoint.
    most_searched
        Number of folder entries after which the search ends; None for no limit.

    Raises
    ------
    ZarrError
        The tree is too deep or too large, or a document is a link that leads out of the checkpoint.

    """
    pending, searched, count = [""], 0, 0
    while pending:
        path = pending.pop()
        if path.count("/") >= _MAX_DEPTH:
            raise ZarrError(f"{folder}/{path} is {_MAX_DEPTH} folders deep", "a flatter tree", "check the path")
        with os.scandir(f"{folder}/{path}") as entries:
            names = {entry.name: entry for entry in entries}
        searched += len(names)
        if most_searched is not None and searched > most_searched:
            return
        if (found := _read_array(folder, path, names)) is not None:
            yield found
            if (count := count + 1) > MAX_ARRAYS:
                raise ZarrError(f"{folder} holds more than {MAX_ARRAYS} arrays", "at most that many", "check the path")
            continue
        pending += [
            f"{path}/{name}" if path else name
            for name in sorted(names, reverse=True)
            if names[name].is_dir(follow_symlinks=False) and not name.startswith(".")
        ]


def _read_array(folder: Path, path: str, names: Mapping[str, object]) -> ArrayFile | None:
    """Read the metadata document of a folder; ``None`` if the folder is no array."""
    prefix = f"{path}/" if path else ""
    if V3_NAME in names:
        raw = read_small(folder, prefix + V3_NAME, _MAX_GROUP_BYTES)
        try:
            document = decode_json(raw)
        except JsonDefectError:  # returned as the document of an array, which the caller refuses
            return ArrayFile(path, 3, raw, None)
        if document.get("node_type") != "group":
            return ArrayFile(path, 3, raw, document)
    if V2_NAME in names:
        return ArrayFile(path, 2, read_small(folder, prefix + V2_NAME, MAX_DOCUMENT_BYTES), None)
    return None


def read_small(folder: Path, key: str, limit_bytes: int) -> bytes:
    """Read a document of an untrusted folder, up to one byte beyond the limit, which shows that it is too long.

    Raises
    ------
    MissingFileError
        The document cannot be opened.
    ZarrError
        The document is a link that leads out of the checkpoint.

    """
    path = f"{folder}/{key}"
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            stay_inside(folder, key)
        return read_at_most(Path(path), limit_bytes + 1)
    except OSError as error:
        raise MissingFileError(f"cannot open {path} ({error.strerror})", "a metadata document", "check it") from error
