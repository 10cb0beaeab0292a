"""Finding out what a file is before it is opened, in a folder that is not trusted."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

MISSING: Final = "is missing"
"""What `unlike_a_file` says where there is nothing of a name."""

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def stays_inside(folder: Path, target: Path) -> bool:
    """Whether what a link in a folder leads to belongs to the folder.

    That is so if it lies in the folder or, as in the cache of the Hugging Face hub, if the link leads from
    ``snapshots/REVISION/`` to the ``blobs`` folder beside ``snapshots``.

    Parameters
    ----------
    folder
        The folder.
    target
        Where the link leads, itself without links.

    """
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    return home in target.parents or target.parent == blobs


def unlike_a_file(path: Path) -> str:
    """Say what a file is, if it is no regular file that belongs to its folder.

    Returns
    -------
    str
        Words to follow the file's name in a sentence, such as ``is a named pipe``; empty for a regular file.

    """
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            if not stays_inside(path.parent, path.resolve(strict=True)):
                return "is a link that leads out of its folder"
            status = path.stat()
    except FileNotFoundError:
        return "is a link that leads nowhere" if path.is_symlink() else MISSING
    except RuntimeError:  # Python's own, for links in a circle
        return "is a link that leads nowhere"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISREG(status.st_mode):
        return ""
    return "is " + next((words for test, words in _KINDS if test(status.st_mode)), "no regular file")
