"""Paths as people write them: a leading ``~`` is their home folder, also where no shell has seen it."""

from __future__ import annotations

import os
from pathlib import Path


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Give a path with its leading ``~`` or ``~user`` replaced by that home folder; unknown users stay as they are."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser raises for unknown users
