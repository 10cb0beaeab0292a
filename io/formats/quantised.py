"""Reading the ``config.json`` of a checkpoint, which is not trusted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from dovetail.io.errors import CheckpointError
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.files.strict_json import JsonDefectError, decode_json
from dovetail.io.formats.index import resolve_in_folder

MAX_CONFIG_BYTES: Final = 64 * 2**20
"""Longest ``config.json`` that is read, in bytes; real ones have a few thousand."""

_OBJECT: Final = "a JSON object"
_REPAIR: Final = "repair the file or copy it again"


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any] | None:
    """Read a checkpoint's ``config.json``, or another file like it; ``None`` where there is none.

    Raises
    ------
    CheckpointError
        If the file is not a JSON object, or a link that leads outside the folder: the output gets a copy of it.

    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    resolve_in_folder(folder, path.name, "its folder")
    try:
        raw = read_at_most(path, MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", _OBJECT, _REPAIR) from error
    return parse_config(raw, str(path))


def parse_config(raw: bytes, path: str) -> dict[str, Any]:
    """Check a ``config.json`` that was read, up to one byte more than `MAX_CONFIG_BYTES`; see `read_config`."""
    try:
        if len(raw) > MAX_CONFIG_BYTES:
            raise JsonDefectError(f"is larger than {MAX_CONFIG_BYTES} bytes")
        return decode_json(raw, constants=True)  # some models' limits are infinite
    except JsonDefectError as error:
        raise CheckpointError(f"{path}: {error}", _OBJECT, _REPAIR) from error
