"""Publishing an output that several processes have made: exactly once, by whichever comes first, and without a lock.

Each process that finds all chunks done writes the small files into a folder of its own, gives them their names by
renaming, and renames the staging folder. The files of all are the same, and the staging folder can be renamed but once:
who comes later finds that it is gone.

A former output that is replaced is moved into the staging folder first. Of two processes that replace it, the slower
one can then never move the new output away in its stead: a folder cannot be moved into itself.

Another process may publish at any instant, and a third begin another merge in a new folder of that name. So each step
makes sure that the folder is still the same one; and since that may change an instant later, whatever is moved or
removed within it is named from the open folder, whatever name that has by then. Only the last step, which gives the
folder its name, has to go by names: no system renames an open folder. It looks afterwards what it has renamed. That can
be another folder only if the output was published and taken away, and another merge begun, within that step; it gets
its name back, unless it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dovetail.engine.errors import OutputError
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.output.staging import FORMER_NAME, place_of, tidy
from dovetail.engine.run.parts.folder import PARTS_NAME, parts_path
from dovetail.io.files.durable import sync_folder
from dovetail.io.files.outfile import naming
from dovetail.io.files.smallfile import is_named, look_anew

_TAKEN: Final = (errno.ENOTEMPTY, errno.EEXIST)


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """The staging folder that a process works in, while another may publish it, and a third begin a new one there."""

    path: Path
    """The name that it has until it is published."""
    descriptor: int
    """The folder itself, open, so that no other folder gets its number, and things within can be named from it."""

    def is_called(self, path: Path) -> bool:
        """Whether a name is that of the folder."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self.descriptor))

    def is_there(self) -> bool:
        """Whether the folder still has its name, and no other folder has that."""
        look_anew(self.path.parent)
        return self.is_called(self.path)

    def check(self) -> None:
        """Make sure that the folder still has its name.

        Raises
        ------
        FileNotFoundError
            Another process has published it.

        """
        if not self.is_there():
            raise self.published()

    def published(self) -> FileNotFoundError:
        """Give the error that says that another process has published the folder."""
        return FileNotFoundError(errno.ENOENT, "another process has published the output", str(self.path))

    def sync(self) -> None:
        """Make the entries of the folder durable, whatever its name is by now; raises an OSError if the disk fails."""
        with naming(self.path):
            os.fsync(self.descriptor)


@contextlib.contextmanager
def work_folder(staging: Path) -> Iterator[WorkFolder]:
    """Keep in mind during the block which folder has the name of the staging folder now."""
    with _opened(staging) as descriptor:
        yield WorkFolder(staging, descriptor)


@contextlib.contextmanager
def _opened(folder: Path | str, within: int | None = None) -> Iterator[int]:
    """Open a folder during the block, by its path or by its name within an open one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(descriptor: int) -> list[str]:
    return os.listdir(descriptor)


@contextlib.contextmanager
def _called(path: Path) -> Iterator[None]:
    """Name a whole path in errors of the block, whose calls know only a name within an open folder."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def put_in_place(own: Path, staging: WorkFolder, last: str) -> None:
    """Give files of this process their names in the staging folder: all at once each, and one after the others.

    Parameters
    ----------
    own
        The folder of this process.
    staging
        The staging folder.
    last
        Name of the file that comes last.

    """
    with _opened(own) as descriptor:
        for name in sorted(_names(descriptor), key=lambda name: (name == last, name)):
            staging.check()
            with _called(staging.path / name):
                os.rename(name, name, src_dir_fd=descriptor, dst_dir_fd=staging.descriptor)
    staging.sync()


def remove_others(staging: WorkFolder, names: Collection[str]) -> None:
    """Remove what belongs to no output: what a run left that was stopped before it had begun."""
    for name in _names(staging.descriptor):
        if name not in names:
            staging.check()
            with _called(staging.path / name):
                _remove(name, staging.descriptor)


def _remove(name: str, within: int) -> None:
    """Remove a file, or a folder with all that is in it, from an open folder; another process may be doing it too."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(name, dir_fd=within).st_mode):
            shutil.rmtree(name, dir_fd=within)
        else:
            os.unlink(name, dir_fd=within)


def publish_once(staging: WorkFolder, output: Path, *, overwrite: bool) -> bool:
    """Rename a complete staging folder to `output`, unless another process has; give whether this one has.

    `settle` makes that durable.

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
    place = place_of(output)
    staging.sync()
    try:
        try:
            _give_name(staging, place)  # also replaces an empty folder, in one step
        except OSError as error:
            if error.errno not in _TAKEN or not staging.is_there():
                raise
            if not overwrite:
                raise OutputError(
                    f"files have come into the output folder {output} while it was being made",
                    "an empty folder",
                    "move them away and run the same command again: nothing is computed twice",
                ) from None
            _replace(place, staging)
    except FileNotFoundError:
        if staging.is_there():
            raise
        return False
    return True


def settle(output: Path) -> None:
    """Make the name of a published output durable, and remove what only the work needed.

    What a process that was started twice still uses is left to the next run.

    Raises
    ------
    OSError
        The disk fails, or a file cannot be removed.

    """
    sync_folder(place_of(output).parent)
    tidy(output)


def _give_name(staging: WorkFolder, place: Path) -> None:
    """Rename the staging folder to the output; raises a FileNotFoundError if another process has done so."""
    staging.check()
    staging.path.rename(place)
    if is_named(place) and not staging.is_called(place):
        _give_back(place, staging.path)
        raise staging.published()


def _give_back(place: Path, path: Path) -> None:
    """Give the folder of another merge its name again, which was renamed in place of ours, as it had just been begun.

    A complete output stays: this process was held up after it had published its own, and that was replaced meanwhile.
    """
    with contextlib.suppress(OSError):
        if not is_named(place / MANIFEST_NAME):
            place.rename(path)


def _replace(place: Path, staging: WorkFolder) -> None:
    """Move the former output into the staging folder, and give that its name, or leave both as they are."""
    with _opened(PARTS_NAME, staging.descriptor) as parts:
        moved = _move_away(place, parts, staging)
        try:
            _give_name(staging, place)
        except OSError:
            if moved and staging.is_there():
                with contextlib.suppress(OSError):
                    os.rename(FORMER_NAME, place, src_dir_fd=parts)
            raise


def _move_away(place: Path, parts: int, staging: WorkFolder) -> bool:
    """Move the former output away, unless another process has, or has published the new one; give whether it did."""
    for _ in range(2):
        staging.check()
        try:
            os.rename(place, FORMER_NAME, dst_dir_fd=parts)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):  # invalid: the staging folder is the output by now
                return False
            if error.errno not in _TAKEN:
                raise
            staging.check()
            with _called(parts_path(staging.path) / FORMER_NAME):
                _remove(FORMER_NAME, parts)  # left by a process that was stopped, and older than what is there now
        else:
            return True
    return False


def restore_former(staging: Path, output: Path) -> None:
    """Give a former output its name again, if a process was stopped between moving it away and replacing it."""
    former, place = parts_path(staging) / FORMER_NAME, place_of(output)
    if is_named(former) and not is_named(place):
        former.rename(place)
