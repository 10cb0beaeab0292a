"""Following links, where a link that cannot be read must not be taken for a folder."""

from __future__ import annotations

import os
from pathlib import Path

from dovetail.io.files.smallfile import is_named


def real_path(path: Path) -> Path:
    """Give the absolute path without links; its last parts need not exist.

    `os.path.realpath` takes a link for a folder where the system cannot tell.

    Raises
    ------
    OSError
        The system cannot tell, or links lead in a circle.

    """
    try:
        return Path(os.path.realpath(path, strict=True))
    except (FileNotFoundError, NotADirectoryError):
        parent, name = os.path.split(Path.cwd() / path)
    home = real_path(Path(parent))
    if name == "..":
        return home.parent
    if is_named(home / name) and (home / name).is_symlink():  # it leads nowhere
        return real_path(home / (home / name).readlink())
    return home / name
