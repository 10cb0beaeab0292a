"""Paths as people write them: a leading ``~`` is their home folder, also where no shell has seen it."""

from __future__ import annotations

import os
from pathlib import Path


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Give a path with its leading ``~`` or ``~user`` replaced by that home folder; unknown users stay as they are."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser raises for unknown users


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Give the absolute path of a file or folder, with `~` expanded, and without ``..`` and ``.`` inside.

    Links stay as they are named, because the folder of a linked file says what belongs to it. Only where a ``..`` comes
    after a link to another folder are the links before it followed, as the system does: cut out of the text, it would
    lead to something else.
    """
    given = Path(expand_home(path)).absolute()
    short = Path(os.path.abspath(given))  # noqa: PTH100  # resolve() follows all links
    if ".." not in given.parts or os.path.realpath(short) == os.path.realpath(given):
        return short
    end = len(given.parts) - given.parts[::-1].index("..")
    return Path(os.path.realpath(Path(*given.parts[:end])), *given.parts[end:])
