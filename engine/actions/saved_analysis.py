"""Analyses in files: written for later, and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dovetail.engine.actions.analysis import FORMAT, VERSION
from dovetail.engine.actions.verify import DEFECTS
from dovetail.engine.errors import VerificationError
from dovetail.io.files.durable import replace_durably
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.files.strict_json import brief

_MOST_BYTES: Final = 2**30

_MOST_VALUES: Final = 50_000_000
"""Most values in an analysis that is read: those of 50,000 tensors of 10 models."""

_BEGINNING: Final = f'{{"format": {json.dumps(FORMAT)}'.encode()


def save_analysis(document: Mapping[str, Any], path: Path) -> None:
    """Write what `Analysis.to_json` gives durably, in one step.

    Raises
    ------
    OSError
        The disk is full or fails.

    """
    replace_durably(path, json.dumps(document).encode() + b"\n")


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
        raw = read_at_most(path, _MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES or sum(map(raw.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise ValueError("it is larger than any analysis")
        document: dict[str, Any] = json.loads(raw)
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError(f"version {document['version']!r}")
    except (OSError, RecursionError, *DEFECTS) as error:
        raise damaged(path, error) from error
    return document


def damaged(path: Path, error: Exception) -> VerificationError:
    """Make the error that reports a fault of an analysis in a file."""
    return VerificationError(
        f"{path} cannot be used ({type(error).__name__}: {brief(str(error))})",
        "an analysis",
        "run dovetail analyze again",
    )
