"""Analyses in files: written for later, and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dovetail.engine.actions.analysis import FORMAT, VERSION
from dovetail.engine.errors import OutputError, VerificationError
from dovetail.io.files.durable import sync_folder, write_durably
from dovetail.io.files.smallfile import read_at_most

_MOST_BYTES: Final = 2**30
_BEGINNING: Final = f'{{"format": {json.dumps(FORMAT)}'.encode()


def check_file(path: Path, *, overwrite: bool) -> Path:
    """Refuse to write an analysis where something else lies; an older analysis may be replaced.

    Raises
    ------
    OutputError
        There is a folder or a file that is no analysis, and `overwrite` is not set, or the folder is missing.

    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "the name of a file to write", "name a file by --save")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent}", "a folder to write the analysis into", "make it first")
    if not overwrite and path.exists() and not is_analysis(path):
        raise OutputError(
            f"{path} is there already and is no analysis", "a new file, or an older analysis", "pass --overwrite"
        )
    return path


def save_analysis(document: Mapping[str, Any], path: Path) -> None:
    """Write what `Analysis.to_json` gives durably, in one step.

    Raises
    ------
    OSError
        The disk is full or fails.

    """
    partial = path.with_name(f".{path.name}.partial")
    write_durably(partial, json.dumps(document).encode() + b"\n")
    partial.replace(path)
    sync_folder(path.parent)


def is_analysis(path: Path) -> bool:
    """Tell whether a file is an analysis, by its beginning."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_BEGINNING)) == _BEGINNING


def read_analysis(path: Path) -> dict[str, Any]:
    """Read an analysis.

    Raises
    ------
    VerificationError
        The file is damaged, or of another version.

    """
    try:
        document: dict[str, Any] = json.loads(read_at_most(path, _MOST_BYTES))
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError(f"version {document['version']!r}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise VerificationError(
            f"{path} cannot be used ({type(error).__name__}: {error})", "an analysis", "run dovetail analyze again"
        ) from error
    return document
