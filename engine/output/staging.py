"""The output folder grows under a staging name, and is renamed when it is complete; then all other files go.

Whatever is removed gets another name first, which says that it is to be removed: a run that is killed in the middle
leaves nothing that looks like work that could be continued.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from dovetail.engine.errors import OutputError
from dovetail.engine.run.journal import JOURNAL_NAME
from dovetail.engine.run.lock import LOCK_NAME, if_unlocked
from dovetail.engine.run.parts.folder import PARTS_NAME
from dovetail.io.files.durable import remove_folder, remove_if_there, sync_folder
from dovetail.io.files.interrupts import held
from dovetail.io.files.real_path import real_path
from dovetail.io.files.smallfile import is_named

FORMER_NAME: Final = "former"
"""Name, in the folder of the parts, of a former output that is being replaced."""

_IN_USE: Final = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ESTALE)
"""What a network file system says of a file that another process has open, or of the folder of such a file."""


def place_of(output: Path) -> Path:
    """Follow links, because the folder that a link leads to is replaced, and not the link."""
    return real_path(output)


def staging_path(output: Path) -> Path:
    """Give the folder beside `output`, on the same file system, in which the output grows until it is complete."""
    return _beside(output, "partial")


def stages_path(output: Path) -> Path:
    """Give the folder beside `output` in which the stages of its merge have their results."""
    return _beside(output, "stages")


def old_path(output: Path) -> Path:
    """Give the folder to which a replaced output is moved aside."""
    return _beside(output, "old")


def clear(staging: Path, keep: Collection[str]) -> None:
    """Remove everything from the staging folder but the files with the names in `keep`."""
    for path in staging.iterdir():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _removed_path(folder: Path) -> Path:
    """Give the name that a working folder has while it is removed."""
    return folder.with_name(f"{folder.name}-removed")


def _beside(output: Path, kind: str) -> Path:
    place = place_of(output)
    return place.parent / f".{place.name}.dovetail-{kind}"


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
    place, old = place_of(output), old_path(output)
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
        _replace(place, staging, old)
    sync_folder(place.parent)
    _tidy(place, old)


def _replace(place: Path, staging: Path, old: Path) -> None:
    """Move the former output aside and put the new one in its place, or leave both as they are."""
    if is_named(old):
        remove_folder(old)
    place.rename(old)
    try:
        staging.rename(place)
    except OSError:
        with contextlib.suppress(OSError):  # the next run can do without it
            old.rename(place)
        raise


def tidy(output: Path) -> None:
    """Remove what is not the output's from its folder and beside it, but for what another process still uses.

    Raises
    ------
    OSError
        Something cannot be removed for another reason.

    """
    with _but_for_what_is_used():
        _tidy(place_of(output), old_path(output))


@contextlib.contextmanager
def _but_for_what_is_used() -> Iterator[None]:
    """Leave to the next run what cannot be removed because another process has it open, as on a network file system."""
    try:
        yield
    except OSError as error:
        if error.errno not in _IN_USE:
            raise


def _tidy(place: Path, old: Path) -> None:
    """Remove the former output, and then the files that only the work needed; go on after an error of those.

    The former output may be large, so it goes first. The journals go before the lock. If the process is killed before
    all are gone, the next run sees that it has to tidy up. Several processes may tidy up at the same time.
    """
    remove_if_there(old)
    errors = []
    for name in (f"{PARTS_NAME}/{FORMER_NAME}", PARTS_NAME, JOURNAL_NAME, LOCK_NAME):
        try:
            remove_if_there(place / name)
        except OSError as error:
            errors.append(error)
    if errors:
        raise min(errors, key=lambda error: error.errno in _IN_USE)  # what is in use is the least of them


def is_untidied(output: Path) -> bool:
    """Whether a run that published this output was killed before it had tidied up, or is about to tidy up."""
    place = place_of(output)
    return is_named(place / JOURNAL_NAME) or is_named(place / PARTS_NAME)


def tidy_up(output: Path) -> None:
    """Do what is left to do for an output whose run was stopped after publishing it; leave that to a run that lives.

    Raises
    ------
    OSError
        A file cannot be removed, and no other process uses it.

    """
    place = place_of(output)
    if is_untidied(output) or is_named(place / LOCK_NAME):
        with held(), if_unlocked(place) as ours:
            if ours:
                tidy(output)
    for folder in (staging_path(output), stages_path(output)):
        _finish_removal(folder)


def discard(folder: Path) -> None:
    """Remove a working folder, which another process must not be working in.

    Raises
    ------
    OSError
        A file cannot be removed.

    """
    _finish_removal(folder)
    removed = _removed_path(folder)
    folder.rename(removed)
    _remove(removed)


def discard_unused(folder: Path) -> None:
    """Remove a working folder if there is one, and no other process works in it; raises as `discard` does."""
    if not is_named(folder) or folder.is_symlink():
        return
    with contextlib.suppress(FileNotFoundError), held(), if_unlocked(folder) as ours:  # another process may be first
        if ours:
            discard(folder)


def is_bare(folder: Path) -> bool:
    """Whether a working folder holds nothing but perhaps a lock, as one does that was only just made."""
    try:
        return folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK_NAME}
    except FileNotFoundError:  # another process has removed it meanwhile
        return False


def _finish_removal(folder: Path) -> None:
    """Remove what an earlier run that was stopped has left of a working folder."""
    _remove(_removed_path(folder))


def _remove(folder: Path) -> None:
    """Remove a folder if it is there; another process may be removing it too, and take what this one comes to."""
    while is_named(folder):
        with contextlib.suppress(FileNotFoundError):
            remove_folder(folder)
