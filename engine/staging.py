"""The output folder: refused where it would destroy something, grown under a staging name, published when complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from dovetail.engine.errors import DiskSpaceError, OutputError
from dovetail.engine.sizes import format_size

DISK_MARGIN_BYTES = 16 * 2**20
"""Room left for side files and file system metadata."""


def staging_path(output: Path) -> Path:
    """Give the folder in which `output` grows until it is complete: beside it, on the same file system."""
    return output.parent / f".{output.name}.dovetail-partial"


def check_target(output: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse a target that would destroy something.

    Raises
    ------
    OutputError
        The target is or contains an input, lies inside one, is not a folder, or is not empty and `overwrite` is
        not set.

    """
    target = output.resolve()
    for path in inputs:
        source = path.resolve()
        if source == target or target in source.parents or (source.is_dir() and source in target.parents):
            raise OutputError(
                f"output folder {output} holds, is or lies inside the input {path}",
                "a folder apart from every input",
                "choose another output folder",
            )
    if target in (Path.cwd().resolve(), Path.home().resolve(), *Path.cwd().resolve().parents):
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
        Less than `needed_bytes` and a margin is free where `folder` lies.

    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + DISK_MARGIN_BYTES:
        raise DiskSpaceError(
            f"disk space free at {folder} is {format_size(free)}",
            f"at least {format_size(needed_bytes + DISK_MARGIN_BYTES)} for the output",
            "free some space, or choose an output folder on another disk",
        )


def publish(staging: Path, output: Path) -> None:
    """Put the complete staging folder in the place of `output`, durably.

    What stood there is moved aside first and removed last, so that at every instant either it or the new output
    is whole.
    """
    sync_folder(staging)
    old = output.parent / f".{output.name}.dovetail-old"
    if old.exists():
        shutil.rmtree(old)
    if output.exists():
        output.rename(old)
    staging.rename(output)
    sync_folder(output.parent)
    if old.exists():
        shutil.rmtree(old)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file and make it durable."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
