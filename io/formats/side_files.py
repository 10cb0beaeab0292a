"""Finding and reading the side files of a checkpoint folder: whatever fails is an error, never a missing file."""

from __future__ import annotations

import errno
import stat
from collections.abc import Set
from pathlib import Path

from dovetail.io.errors import ChangedFileError, CheckpointError, IndexFileError
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.formats.index import resolve_in_folder
from dovetail.io.formats.side_names import LARGEST_BYTES, is_side_name

_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def find_side_files(folder: Path, left_out: Set[str]) -> list[Path]:
    """List the side files of a folder, sorted by name.

    What is no regular file, larger than a side file, or a link that leads nowhere or out of the folder is none.

    Parameters
    ----------
    folder
        The folder of a checkpoint.
    left_out
        Names in lower case of files that are not wanted.

    Raises
    ------
    CheckpointError
        The system cannot tell what a file is, or which files there are.

    """
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from error
    wanted = (name for name in names if is_side_name(name) and name.lower() not in left_out)
    return [folder / name for name in wanted if is_side_file(folder, name, listed=True)]


def read_side_file(path: Path) -> bytes:
    """Read a side file that was found.

    Raises
    ------
    CheckpointError
        It cannot be read, or has become too large since.

    """
    try:
        data = read_at_most(path, LARGEST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > LARGEST_BYTES:
        raise ChangedFileError(f"{path} has grown", f"at most {LARGEST_BYTES} bytes", "run the same command again")
    return data


def is_side_file(folder: Path, name: str, *, listed: bool = False) -> bool:
    """Whether a name stands for a regular file, not larger than a side file, that the folder itself holds.

    Parameters
    ----------
    folder
        The folder of a checkpoint.
    name
        Name of the file.
    listed
        Whether the system has listed the file, which then cannot be missing.

    Raises
    ------
    CheckpointError
        The system cannot tell.

    """
    path = folder / name
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            try:
                status = path.stat()
            except OSError as error:
                if error.errno in _NOWHERE:
                    return False
                raise
            try:
                resolve_in_folder(folder, name, "its folder")
            except IndexFileError:  # it leads out of the folder
                return False
    except OSError as error:
        if error.errno in _NOWHERE and not listed:
            return False
        raise _unreadable(path, error) from error
    return stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_BYTES


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot read {path} ({error.strerror})",
        "readable files beside the weights",
        "check its permissions and the disk, and run the same command again to continue",
    )
