"""The command that says how far an output is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dovetail.engine.cli.options import DebugOption, JsonOption

if TYPE_CHECKING:
    from dovetail.engine.actions.status import PartStatus, Status


def status(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that is being made.", readable=False)],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say how far an output is, who works on it as far as can be known, and how to make the parts that are left."""
    from dovetail.engine.actions.status import status as find_status

    found = find_status(output)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print("\n".join(_lines(found, time.time())))


def _lines(found: Status, now: float) -> list[str]:
    """Write a status for people, at a time in seconds since the epoch."""
    from dovetail.engine.run.parts.part import ranges
    from dovetail.engine.text import counted, format_size, percent

    if found.state == "finished":
        return [f"{found.output} is finished; dovetail verify checks every byte of it."]
    if found.share_done is None:
        seen = "" if found.last is None else f"; its last chunk was done {_ago(now - found.last)}"
        return [
            f"{found.output} is unfinished, and was begun by one process without --part{seen}.",
            "The same command again continues it, if that process has ended.",
        ]
    if found.state == "unpublished":
        return [
            f"All chunks of the {found.noun} into {found.output} are done, and it is not published yet.",
            "If no process is about to do that, make any part again.",
        ]
    lines = [
        f"{found.noun} into {found.output}: {percent(found.share_done)} of the chunks are done, "
        f"{format_size(found.left_bytes or 0)} are left to read and write."
    ]
    for division in found.divisions:
        if not division.left:
            continue
        lines.append(f"{len(division.left):,} of {counted(division.parts, 'part')} left:")
        lines += [_part_line(part, division.parts, now) for part in division.left]
        lines.append(
            f"To make them: --array={division.array} with --part $SLURM_ARRAY_TASK_ID/{division.parts}; or any number "
            f"of parts, such as --array={ranges(list(range(1, len(division.left) + 1)))} with --part auto."
        )
    return lines


def _part_line(part: PartStatus, count: int, now: float) -> str:
    from dovetail.engine.text import percent

    worker = part.worker
    who = "nobody has begun it"
    if worker is not None:
        who = f"process {worker.process} on {worker.host}, which wrote last {_ago(now - worker.last)}"
    return f"  part {part.part}/{count}: {percent(part.share_done)} done, {who}"


def _ago(seconds: float) -> str:
    """Write how long ago something was."""
    seconds = max(0.0, seconds)
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"
