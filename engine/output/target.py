"""Refusing an output folder, or a disk, before anything is written: no file of anybody else may be lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from dovetail.engine.errors import DiskSpaceError, OutputError
from dovetail.engine.output.staging import old_path, place_of, staging_path
from dovetail.engine.text import format_size
from dovetail.io.checkpoint import only_inputs
from dovetail.io.files.smallfile import is_named

DISK_MARGIN_BYTES = 16 * 2**20
"""Bytes of free disk space, beyond the output, for small files and the file system's metadata."""


def check_target(output: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse an output folder if making it could destroy files.

    Parameters
    ----------
    output
        The output folder.
    inputs
        Files and folders that must be spared.
    overwrite
        Whether an output folder that is not empty may be replaced.

    Raises
    ------
    OutputError
        The output folder, or a working folder beside it, is or contains an input or lies inside one; or a working
        folder is something else; or the output folder cannot be replaced, is not a folder, or is not empty and
        `overwrite` is not set.

    """
    target = place_of(output)
    places = (target, staging_path(output), old_path(output))
    for place in places[1:]:
        if is_named(place) and (place.is_symlink() or not place.is_dir()):
            raise OutputError(
                f"the working folder {place} is no folder", "nothing of that name, or a folder", "move it away"
            )
    with only_inputs():
        known: dict[Path, Path] = {}
        for path in inputs:
            source = _place_among(path, known)
            for place in places:
                if source == place or place in source.parents or (source in place.parents and source.is_dir()):
                    name = f"output folder {output}" if place == target else f"working folder {place}"
                    raise OutputError(
                        f"{name} holds, is or lies inside the input {path}",
                        "a folder apart from every input",
                        "choose another output folder",
                    )
    if os.path.ismount(target):
        raise OutputError(
            f"output folder {output} is a mount point",
            "a folder that can be replaced when the merge is complete",
            f"choose a folder inside it, such as {output / 'merged'}",
        )
    home = Path(os.path.expanduser("~")).resolve()  # noqa: PTH111  Path.home raises for users without one
    if target in (Path.cwd().resolve(), home, *Path.cwd().resolve().parents):
        raise OutputError(
            f"output folder {output} is or contains the current or home folder",
            "a folder apart from both",
            "choose another output folder",
        )
    if output.exists() and not output.is_dir():
        raise OutputError(f"output {output} is a file", "a folder", "choose another name")
    if not overwrite:
        check_empty(output)


def _place_among(path: Path, known: dict[Path, Path]) -> Path:
    """Follow links as `place_of` does, those of a folder once for all of its files: there may be hundreds."""
    if path.name in ("", "..") or path.is_symlink():
        return place_of(path)
    if path.parent not in known:
        known[path.parent] = place_of(path.parent)
    return known[path.parent] / path.name


def check_empty(output: Path) -> None:
    """Refuse an output folder that is not empty; raises an OutputError."""
    if output.is_dir() and any(output.iterdir()):
        raise OutputError(
            f"output folder {output} is not empty",
            "a new or empty folder",
            "choose another, or pass --overwrite to replace it",
        )


def check_disk_space(folder: Path, needed_bytes: int) -> None:
    """Refuse an output that does not fit onto the disk.

    Parameters
    ----------
    folder
        Where the output will be written; the folder need not exist yet.
    needed_bytes
        Bytes that will be written.

    Raises
    ------
    DiskSpaceError
        The disk of `folder` has less than `needed_bytes` and `DISK_MARGIN_BYTES` free.

    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + DISK_MARGIN_BYTES:
        raise DiskSpaceError(
            f"disk space free at {folder} is {format_size(free)}",
            f"at least {format_size(needed_bytes + DISK_MARGIN_BYTES)} for the output",
            "free some space, or choose an output folder on another disk",
        )
