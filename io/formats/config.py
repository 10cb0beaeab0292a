"""A model's ``config.json``: the one place where it is read, strictly, as it comes with untrusted checkpoints.

Every reader of a format reads it when it opens a checkpoint, and plans and outputs read it again by way of
`config_of`. So a configuration that is damaged, too large or not the checkpoint's own is refused in the same words
whoever meets it first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.files.strict_json import JsonDefectError, decode_json
from dovetail.io.formats.index import resolve_in_folder

CONFIG_NAME: Final = "config.json"
"""File name of a model's configuration."""

MAX_CONFIG_BYTES: Final = 64 * 2**20
"""Longest configuration that is read, in bytes; real ones have a few thousand."""

_OBJECT: Final = "a JSON object"
_REPAIR: Final = "repair the file or copy it again"


def config_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Read the configuration beside a checkpoint's weights, fetched if need be; ``None`` where there is none.

    Every call gives a dictionary that the caller may change.

    Raises
    ------
    CheckpointError
        As `read_config`, or a remote configuration cannot be fetched.

    """
    folder = checkpoint.side_folder
    return None if folder is None else read_config(folder)


def read_config(folder: Path, name: str = CONFIG_NAME) -> dict[str, Any] | None:
    """Read the configuration in a folder, or another JSON object beside it; ``None`` where there is none.

    Raises
    ------
    CheckpointError
        The file cannot be read, or is not a JSON object of at most `MAX_CONFIG_BYTES`.
    IndexFileError
        It is a link that leads outside the folder: the output gets a copy of it.

    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    resolve_in_folder(folder, name, "its folder")
    try:
        raw = read_at_most(path, MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", _OBJECT, _REPAIR) from error
    return parse_config(raw, str(path))


def parse_config(raw: bytes, path: str) -> dict[str, Any]:
    """Check a configuration that was read, up to one byte more than `MAX_CONFIG_BYTES`.

    Parameters
    ----------
    raw
        What was read.
    path
        Where, for the error message: a path or an address.

    Raises
    ------
    CheckpointError
        It is too large, or not a JSON object.

    """
    try:
        if len(raw) > MAX_CONFIG_BYTES:
            raise JsonDefectError(f"is larger than {MAX_CONFIG_BYTES} bytes")
        return decode_json(raw, constants=True)  # some models' limits are infinite
    except JsonDefectError as error:
        raise CheckpointError(f"{path}: {error}", _OBJECT, _REPAIR) from error
