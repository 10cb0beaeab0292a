"""Temporary folders of this process, which are removed when it ends, and also when it ends itself in the middle."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

_folders: set[Path] = set()


def make_folder(prefix: str) -> Path:
    """Make a folder that lives as long as this process at most; a process that it forks leaves it alone."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _folders.add(folder)
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a folder that `make_folder` has made in this process."""
    if folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)
        _folders.discard(folder)


@atexit.register
def remove_folders() -> None:
    """Remove all folders that `make_folder` has made in this process and that are still there."""
    for folder in tuple(_folders):
        remove_folder(folder)


os.register_at_fork(after_in_child=_folders.clear)
