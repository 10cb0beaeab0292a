"""Where a command may write one file: a page or an analysis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dovetail.engine.errors import OutputError


def check_file(path: Path, kind: str, option: str, is_one: Callable[[Path], bool], *, overwrite: bool) -> Path:
    """Refuse to write a file where something else lies; an older one of the same kind may be replaced.

    Parameters
    ----------
    path
        The file.
    kind
        What it is to be, such as ``report``.
    option
        The option that named it.
    is_one
        Tells whether a regular file is of this kind.
    overwrite
        Whether a file of another kind may be replaced.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    OutputError
        There is a folder, a pipe or a device, or a file of another kind, and `overwrite` is not set, or the folder is
        missing.

    """
    if path.exists() and not path.is_file():  # looked at before it is opened: a pipe would be waited for
        found = "a folder" if path.is_dir() else "no regular file"
        raise OutputError(f"{path} is {found}", "the name of a file to write", f"name a file by {option}")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent}", f"a folder to write the {kind} into", "make it first")
    if not overwrite and path.exists() and not is_one(path):
        raise OutputError(
            f"{path} is there already and is no {kind}", f"a new file, or an older {kind}", "pass --overwrite"
        )
    return path
