"""The output folder: it is refused if files would be lost, grows under a staging name, and is renamed when complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from dovetail.engine.errors import DiskSpaceError, OutputError
from dovetail.engine.run.journal import JOURNAL_NAME
from dovetail.engine.run.lock import LOCK_NAME, locked
from dovetail.engine.text import format_size
from dovetail.io.checkpoint import only_inputs
from dovetail.io.files.durable import sync_folder

DISK_MARGIN_BYTES = 16 * 2**20
"""Bytes of free disk space, beyond the output, for small files and the file system's metadata."""


def staging_path(output: Path) -> Path:
    """Give the folder beside `output`, on the same file system, in which the output grows until it is complete."""
    place = _place(output)
    return place.parent / f".{place.name}.dovetail-partial"


def stages_path(output: Path) -> Path:
    """Give the folder beside `output` in which the stages of its merge have their results."""
    place = _place(output)
    return place.parent / f".{place.name}.dovetail-stages"


def _place(output: Path) -> Path:
    """Follow links, because the folder that a link leads to is replaced, and not the link."""
    return Path(os.path.realpath(output))


def _old_path(output: Path) -> Path:
    """Give the folder to which a replaced output is moved aside."""
    place = _place(output)
    return place.parent / f".{place.name}.dovetail-old"


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
        The output folder, or a working folder beside it, is or contains an input or lies inside one; or the output
        folder cannot be replaced, is not a folder, or is not empty and `overwrite` is not set.

    """
    target = _place(output)
    with only_inputs():
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
            "a folder apart from both",
            "choose another output folder",
        )
    if output.exists() and not output.is_dir():
        raise OutputError(f"output {output} is a file", "a folder", "choose another name")
    if not overwrite:
        check_empty(output)


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


def publish(staging: Path, output: Path, *, overwrite: bool) -> None:
    """Rename the complete staging folder to `output`, durably.

    A former output is first moved aside and removed last, so that at every instant either the former or the new output
    is whole.

    Parameters
    ----------
    staging
        The complete staging folder.
    output
        The name that it gets.
    overwrite
        Whether a former output that is not empty is replaced.

    Raises
    ------
    OutputError
        Somebody has put files into `output` since it was checked, and `overwrite` is not set.

    """
    place, old = _place(output), _old_path(output)
    sync_folder(staging)
    try:
        staging.rename(place)  # also replaces an empty folder, in one step
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
    _tidy(place, old)


def _tidy(place: Path, old: Path) -> None:
    """Remove the former output, and then the files that only the work needed.

    The journal goes before the lock. If the process is killed before both are gone, the next run sees that it has to
    tidy up.
    """
    if old.exists():
        shutil.rmtree(old)
    for name in (JOURNAL_NAME, LOCK_NAME):
        (place / name).unlink(missing_ok=True)


def is_untidied(output: Path) -> bool:
    """Whether a run that published this output was killed before it had tidied up, or is about to tidy up."""
    return (_place(output) / JOURNAL_NAME).exists()


def tidy_up(output: Path) -> None:
    """Do what is left to do for an output whose run was killed after publishing it; leave that to a run that lives."""
    place = _place(output)
    journal, lock = place / JOURNAL_NAME, place / LOCK_NAME
    if journal.exists() or lock.exists():
        with contextlib.suppress(OSError), locked(place):
            _tidy(place, _old_path(output))


def discard(folder: Path) -> None:
    """Remove a working folder, unless another process works in it."""
    if folder.is_dir() and not folder.is_symlink():
        with contextlib.suppress(OSError), locked(folder):
            shutil.rmtree(folder)
