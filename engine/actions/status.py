"""How far an output is, as far as its folders tell: the function behind ``dovetail status``.

Nothing is written, no lock is taken, and the recipe is not needed, so that anybody can look at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import OutputError
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.output.staging import stages_path, staging_path
from dovetail.engine.planning.shares import Shares
from dovetail.engine.run.journal import JOURNAL_NAME, sound_entries
from dovetail.engine.run.parts.folder import PartsLayout, divisions, is_divided, read_layout, read_shares
from dovetail.engine.run.parts.journals import JournalFile, journals
from dovetail.engine.run.parts.part import ranges
from dovetail.io.files.home import expand_home
from dovetail.io.files.smallfile import is_named


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that has worked on a part, and may still do so."""

    part: str
    """Which part, as ``3/16``; empty for a process that makes everything."""
    host: str
    """The machine that it ran on."""
    process: int
    """Its number there."""
    began: float
    """When it began, in seconds since the epoch, by its machine's clock."""
    last: float
    """When its journal had its last entry, in seconds since the epoch, by the file system's clock."""


@dataclass(frozen=True, slots=True)
class PartStatus:
    """How far a part is."""

    part: int
    """Which part, from 1."""
    share_done: float
    """Share of its chunks that are done, from 0 to 1."""
    worker: Worker | None
    """The process that has worked on it last; None if none has."""


@dataclass(frozen=True, slots=True)
class DivisionStatus:
    """How far a division into parts is."""

    parts: int
    """Number of parts."""
    left: tuple[PartStatus, ...]
    """The parts that are not done."""

    @property
    def array(self) -> str:
        """The numbers of the parts that are left, as ``--array`` of SLURM takes them."""
        return ranges([each.part for each in self.left])


@dataclass(frozen=True, slots=True)
class Status:
    """How far an output is."""

    output: str
    """Its folder."""
    noun: str
    """What people call it."""
    state: str
    """``finished``, ``unfinished``, or ``unpublished`` if all chunks are done and the output has not its name yet."""
    share_done: float | None
    """Share of its chunks that are done, from 0 to 1; None where one process alone knows."""
    left_bytes: int | None
    """Bytes that are left to be read and written; None where one process alone knows."""
    last: float | None
    """When a journal had its last entry, in seconds since the epoch, by the file system's clock; None if none has."""
    divisions: tuple[DivisionStatus, ...]
    """Every number of parts that it has been divided into; empty if it is finished, or made by one process."""

    def to_json(self) -> dict[str, Any]:
        """Give it as a JSON object; each division has its ``array`` besides."""
        arrays = [{**asdict(each), "array": each.array} for each in self.divisions]
        return {**asdict(self), "divisions": arrays}


def status(output: str | os.PathLike[str]) -> Status:
    """Find out how far an output is.

    Parameters
    ----------
    output
        The output folder, which need not exist yet.

    Raises
    ------
    OutputError
        Nothing is made there, or what the processes have agreed on is damaged.
    OSError
        The disk fails.

    """
    output = expand_home(output)
    staging = staging_path(output)
    for _ in range(3):
        try:
            if is_divided(staging):
                return _divided(output, staging)
        except FileNotFoundError:
            continue  # it is being published
        break
    if is_named(staging / JOURNAL_NAME):
        last = (staging / JOURNAL_NAME).stat().st_mtime
        return Status(str(output), "output", "unfinished", None, None, last, ())
    if is_named(staging) or is_named(stages_path(output)):
        return Status(str(output), "output", "unfinished", None, None, None, ())
    if is_named(output / MANIFEST_NAME):
        return Status(str(output), "output", "finished", 1.0, 0, None, ())
    raise OutputError(
        f"nothing is made at {output}", "an output that is finished, or that somebody has begun", "check the name"
    )


def _divided(output: Path, staging: Path) -> Status:
    """Look at what several processes make."""
    layout = read_layout(staging)
    found = list(journals(staging, str(layout.identity["plan_hash"])))
    done = _done_rows(layout, found)
    rows, moved = np.array(layout.rows, np.int64), np.array(layout.moved_bytes, np.float64)
    counts = np.diff(rows)
    sums = np.concatenate(([0], np.cumsum(done, dtype=np.int64)))
    finished = sums[rows[1:]] - sums[rows[:-1]]
    left = int((moved * (1 - finished / np.maximum(1, counts))).sum())
    divided = [
        _division(count, read_shares(path), finished, counts, found) for count, path in divisions(staging).items()
    ]
    return Status(
        output=str(output),
        noun=layout.noun,
        state="unpublished" if done.all() else "unfinished",
        share_done=float(done.mean()) if done.size else 1.0,
        left_bytes=left,
        last=max((journal.changed for journal in found), default=None),
        divisions=tuple(divided),
    )


def _done_rows(layout: PartsLayout, found: list[JournalFile]) -> NDArray[np.bool_]:
    """Tell of each chunk whether a journal has it."""
    done = np.zeros(layout.rows[-1], np.bool_)
    for journal in found:
        for block in journal.blocks(layout.entry_bytes):
            numbers = [number for number, _ in sound_entries(block, layout.entry_bytes, len(done))]
            done[numbers] = True
            if len(numbers) * layout.entry_bytes < len(block):
                break
    return done


def _division(
    count: int,
    shares: Shares,
    finished: NDArray[np.int64],
    counts: NDArray[np.int64],
    found: list[JournalFile],
) -> DivisionStatus:
    """Say which parts of a division are left, and who has worked on them last."""
    workers = {worker.part: worker for worker in sorted(_workers(found), key=lambda worker: worker.last)}
    left = []
    for part, share in enumerate(shares, 1):
        places = list(share)
        done, all_ = int(finished[places].sum()), int(counts[places].sum())
        if done < all_:
            left.append(PartStatus(part, done / all_, workers.get(f"{part}/{count}")))
    return DivisionStatus(count, tuple(left))


def _workers(found: list[JournalFile]) -> Iterator[Worker]:
    for journal in found:
        header = journal.header
        if "host" in header:
            yield Worker(
                str(header["part"]),
                str(header["host"]),
                int(header["process"]),
                float(header["began"]),
                journal.changed,
            )
