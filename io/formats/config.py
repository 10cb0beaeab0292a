"""Reading a model's ``config.json``, strictly, because it may come with an untrusted checkpoint.

The readers of all formats use this module when they open a checkpoint, and plans and outputs do when they read the
configuration again. A configuration that is damaged, too large or from outside the checkpoint is therefore refused
with the same message everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError
from dovetail.io.files.smallfile import is_named, read_at_most
from dovetail.io.files.strict_json import JsonDefectError, decode_json
from dovetail.io.formats.index import resolve_in_folder

CONFIG_NAME: Final = "config.json"
"""File name of a model's configuration."""

MAX_CONFIG_BYTES: Final = 64 * 2**20
"""Longest configuration that is read, in bytes; real ones have a few thousand bytes."""

_OBJECT: Final = "a JSON object"
_REPAIR: Final = "repair the file or copy it again"


def config_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Read the configuration beside a checkpoint's weights, which is downloaded if the checkpoint is remote.

    Returns
    -------
    dict or None
        The configuration, a new object that the caller may change; ``None`` if the checkpoint has none.

    Raises
    ------
    CheckpointError
        As `read_config` raises it, or because a remote configuration cannot be downloaded.

    """
    folder = checkpoint.side_folder
    return None if folder is None else read_config(folder)


def read_config(folder: Path, name: str = CONFIG_NAME) -> dict[str, Any] | None:
    """Read the configuration in a folder, or another JSON object beside it; ``None`` if the folder has none.

    Raises
    ------
    CheckpointError
        The file cannot be read, or is not a JSON object of at most `MAX_CONFIG_BYTES`.
    IndexFileError
        The file is a link that leads out of the folder; an output would get a copy of a file from elsewhere.

    """
    path = folder / name
    try:
        if not is_named(path):
            return None
        resolve_in_folder(folder, name, "its folder")
        raw = read_at_most(path, MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", _OBJECT, _REPAIR) from error
    return parse_config(raw, str(path))


def parse_config(raw: bytes, path: str) -> dict[str, Any]:
    """Check and decode the bytes of a configuration.

    Parameters
    ----------
    raw
        The file's bytes; if there are more than `MAX_CONFIG_BYTES`, one byte more is enough.
    path
        The file's path or address, for the error message.

    Raises
    ------
    CheckpointError
        The configuration is too large, or is not a JSON object.

    """
    try:
        if len(raw) > MAX_CONFIG_BYTES:
            raise JsonDefectError(f"is larger than {MAX_CONFIG_BYTES} bytes")
        return decode_json(raw, constants=True)  # some models have Infinity as a limit
    except JsonDefectError as error:
        raise CheckpointError(f"{path}: {error}", _OBJECT, _REPAIR) from error
