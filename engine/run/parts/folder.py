"""What the processes of one merge tell each other, in files of a folder within the staging folder.

No file is written by two processes, and none is changed once it has its name. What must be decided once, such as who
makes which shards, is written into a folder of another name, which is then renamed: of several processes that do this
at the same time one succeeds, on every file system, and the others read what it has decided.

::

    dovetail_parts/
        layout/decided         the plan, how large shards are, which rows of the table each shard has
        of-16/decided          who makes which shards, if 16 processes do it
        of-16/3.HOST.PID.xxxx       a journal of part 3 of 16: one for each process that ever worked on it
        of-16/3.done                part 3 is done
        of-16/3.lock                held by a process that works on it, where the file system has locks
        own.xxxx/                   small files of one process, before they get their names
"""

from __future__ import annotations

import contextlib
import errno
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dovetail.engine.errors import OutputError
from dovetail.engine.planning.shares import Shares
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.files.durable import remove_folder, sync_folder, write_durably
from dovetail.io.files.smallfile import is_named, look_anew

PARTS_NAME: Final = "dovetail_parts"
"""Name of the folder in the staging folder."""

DONE: Final = ".done"
"""Suffix of the file that says that a part is done."""

_DECIDED: Final = "decided"
_TAKEN: Final = (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR)


@dataclass(frozen=True, slots=True)
class PartsLayout:
    """What all processes must agree on, and what can be known without the recipe."""

    identity: Mapping[str, Any]
    """The plan, as its journals describe it."""
    noun: str
    """What people call the output."""
    shard_limit_bytes: int | None
    """Most bytes of a shard; None where that cannot be chosen."""
    entry_bytes: int
    """Size of a journal's entry."""
    rows: tuple[int, ...]
    """For each shard, the number of its first row in the table; then the number of all rows."""
    moved_bytes: tuple[int, ...]
    """Bytes that are read and written for each shard."""


def parts_path(staging: Path) -> Path:
    """Give the folder of the parts."""
    return staging / PARTS_NAME


def is_divided(staging: Path) -> bool:
    """Whether an unfinished output is made in parts."""
    for folder in (staging, parts_path(staging)):
        look_anew(folder)
    return is_named(parts_path(staging) / "layout")


def read_layout(staging: Path) -> PartsLayout:
    """Read what the processes have agreed on.

    Raises
    ------
    OutputError
        It is damaged.
    OSError
        It cannot be read, because it is not there, or the merge has been published meanwhile.

    """
    found = _read(parts_path(staging) / "layout")
    try:
        return PartsLayout(
            dict(found["identity"]),
            str(found["noun"]),
            found["shard_limit_bytes"],
            int(found["entry_bytes"]),
            tuple(found["rows"]),
            tuple(found["moved_bytes"]),
        )
    except (KeyError, TypeError, ValueError):
        raise _damaged(parts_path(staging) / "layout" / _DECIDED) from None


def decide_layout(staging: Path, layout: PartsLayout) -> PartsLayout:
    """Write what the processes agree on, unless another has done so; give what holds."""
    if not is_divided(staging):
        folder = parts_path(staging)
        folder.mkdir(exist_ok=True)
        if _decide(folder / "layout", {name: getattr(layout, name) for name in PartsLayout.__slots__}):
            sync_folder(staging)
    return read_layout(staging)


def division_path(staging: Path, count: int) -> Path:
    """Give the folder of the division into `count` parts."""
    return parts_path(staging) / f"of-{count}"


def decide_shares(staging: Path, count: int, make: Callable[[], Shares]) -> Shares:
    """Give who makes which shards; if nobody has decided that yet, `make` does.

    Raises
    ------
    OutputError
        What was decided is damaged.
    OSError
        The disk fails, or the merge has been published meanwhile.

    """
    folder = division_path(staging, count)
    if not is_named(folder):
        _decide(folder, {"shares": make()})
    return read_shares(folder)


def read_shares(folder: Path) -> Shares:
    """Read who makes which shards; raises as `decide_shares` does."""
    try:
        return tuple(tuple(share) for share in _read(folder)["shares"])
    except (KeyError, TypeError):
        raise _damaged(folder / _DECIDED) from None


def divisions(staging: Path) -> dict[int, Path]:
    """Give the folders of all divisions, by their numbers of parts."""
    found = {}
    for path in parts_path(staging).iterdir():
        if path.name.startswith("of-") and path.name[3:].isdigit():
            found[int(path.name[3:])] = path
    return dict(sorted(found.items()))


def done_parts(division: Path) -> set[int]:
    """Give the numbers of the parts of a division that are done."""
    names = [path.name.removesuffix(DONE) for path in division.iterdir() if path.name.endswith(DONE)]
    return {int(name) for name in names if name.isdigit()}


def mark_done(division: Path, number: int) -> None:
    """Note durably that a part is done.

    To change the folder here also makes a network file system look at it anew, so that what other machines have put
    into it is seen.
    """
    write_durably(division / f"{number}{DONE}", b"")
    sync_folder(division)


def own_folder(staging: Path) -> Path:
    """Make a folder that this process alone writes into."""
    path = parts_path(staging) / f"own.{uuid.uuid4().hex[:16]}"
    path.mkdir()
    return path


def _decide(folder: Path, content: Mapping[str, Any]) -> bool:
    """Make a folder with a decision, unless there is one; give whether this process has made it."""
    text = json.dumps(content).encode()
    new = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:16]}")
    new.mkdir()
    try:
        write_durably(new / _DECIDED, hex_checksum(text).encode() + b"\n" + text)
        sync_folder(new)
        new.rename(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            remove_folder(new)
        if error.errno not in _TAKEN:
            raise
        return False
    sync_folder(folder.parent)
    return True


def _read(folder: Path) -> dict[str, Any]:
    path = folder / _DECIDED
    checksum, _, text = path.read_bytes().partition(b"\n")
    if checksum != hex_checksum(text).encode():
        raise _damaged(path)
    found: dict[str, Any] = json.loads(text)
    return found


def _damaged(path: Path) -> OutputError:
    return OutputError(
        f"{path} is damaged",
        "what the processes of this merge have agreed on",
        "run the command with --restart, and without --part, to begin anew",
    )
