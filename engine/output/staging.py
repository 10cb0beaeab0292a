"""The output folder: refused where it would destroy something, grown under a staging name, published when complete."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from dovetail.engine.errors import DiskSpaceError, OutputError
from dovetail.engine.text import format_size
from dovetail.io.files.durable import sync_folder

DISK_MARGIN_BYTES = 16 * 2**20
"""Room left for side files and file system metadata."""


def staging_path(output: Path) -> Path:
    """Give the folder in which `output` grows until it is complete: beside it, on the same file system."""
    place = _place(output)
    return place.parent / f".{place.name}.dovetail-partial"


def stages_path(output: Path) -> Path:
    """Give the folder of the intermediate results of a merge into `output`, beside it."""
    place = _place(output)
    return place.parent / f".{place.name}.dovetail-stages"


def _place(output: Path) -> Path:
    """Follow links: the folder that a link leads to is replaced, not the link."""
    return Path(os.path.realpath(output))


def _old_path(output: Path) -> Path:
    """Give the folder to which a replaced output is moved aside."""
    place = _place(output)
    return place.parent / f".{place.name}.dovetail-old"


def check_target(output: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse a target that would destroy something.

    Raises
    ------
    OutputError
        The target, or a folder that is made or removed on the way, is or contains an input or lies inside one;
        or the target cannot be replaced, is not a folder, or is not empty and `overwrite` is not set.

    """
    target = _place(output)
    for path in inputs:
        source = _place(path)
        for place in (target, staging_path(output), _old_path(output)):
            if source == place or place in source.parents or (source.is_dir() and source in place.parents):
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
            "a folder of its own",
            "choose another output folder",
        )
    if output.exists() and not output.is_dir():
        raise OutputError(f"output {output} is a file", "a folder", "choose another name")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise OutputError(
            f"output folder {output} is not empty",
            "a new or empty folder",
            "choose another, or pass --overwrite to replace it",
        )


def check_disk_space(folder: Path, needed_bytes: int) -> None:
    """Refuse an output that does not fit on the disk.

    Raises
    ------
    DiskSpaceError
        Less than `needed_bytes` and a margin is free where `folder` lies, or will lie.

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


def publish(staging: Path, output: Path, *, overwrite: bool, remove: Iterable[str] = ()) -> None:
    """Put the complete staging folder in the place of `output`, durably.

    What stood there is moved aside first and removed last, so that at every instant either it or the new output
    is whole.

    Parameters
    ----------
    staging, output
        The two folders.
    overwrite
        Whether an output that is not empty is replaced.
    remove
        Names of files in the staging folder that go once it has its final name.

    Raises
    ------
    OutputError
        Files have come into `output` since it was checked, and `overwrite` is not set.

    """
    place, old = _place(output), _old_path(output)
    sync_folder(staging)
    try:
        staging.rename(place)  # takes the place of nothing or of an empty folder, in one step
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not overwrite:
            raise OutputError(
                f"files have come into the output folder {output} while it was being made",
                "an empty folder",
                "move them away and run the same command again: nothing is computed twice",
            ) from None
        if old.exists():
            shutil.rmtree(old)
        place.rename(old)
        staging.rename(place)
    sync_folder(place.parent)
    _tidy(place, old, remove)


def _tidy(place: Path, old: Path, names: Iterable[str]) -> None:
    """Remove what was replaced, then what only the merge needed: as long as that is there, `take_back` finds it."""
    if old.exists():
        shutil.rmtree(old)
    for name in names:
        (place / name).unlink()


def take_back(output: Path, staging: Path) -> None:
    """Give an output whose merge ended before it was tidied its staging name again, so that the merge can end well."""
    _place(output).rename(staging)
    sync_folder(staging.parent)
