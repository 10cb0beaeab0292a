"""What several processes make of one output: agreeing on how it is laid out, and publishing it when all is done."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from dovetail.engine.actions.completion import Complete
from dovetail.engine.errors import OtherLayoutError, OutputError
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.output.publishing import WorkFolder, publish_once, put_in_place, remove_others
from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.shares import resized
from dovetail.engine.run.journal import JOURNAL_NAME, check_begun, check_identity, identity
from dovetail.engine.run.lock import LOCK_NAME
from dovetail.engine.run.parts.folder import PARTS_NAME, PartsLayout, decide_layout, own_folder, parts_path
from dovetail.engine.run.parts.journals import count_entries, read_journals
from dovetail.engine.run.parts.left import describe
from dovetail.engine.run.records import RecordTable
from dovetail.io.files.durable import write_durably


def agree_on_layout(plan: Plan, table: RecordTable, staging: Path) -> PartsLayout:
    """Agree with all other processes of a merge on how the output is laid out, and give that.

    Raises
    ------
    OtherLayoutError
        The others make the same, with shards of another size: those who came first have divided it among another
        number of processes. `dovetail.engine.actions.parts.laid_out` gives the plan with shards of that size.
    OutputError
        The others make something else, or what they have agreed on is damaged.

    """
    check_begun(staging / JOURNAL_NAME, plan)
    agreed = decide_layout(staging, describe(plan, table))
    limit = agreed.shard_limit_bytes
    if agreed.identity.get("plan_hash") not in (plan.hash, None) and (
        resized(plan, limit).hash == agreed.identity["plan_hash"]
    ):
        raise OtherLayoutError(
            f"unfinished output {staging} has shards of {limit:,} B, decided while this process was planning",
            f"{plan.options.format.shard_limit_bytes:,} B",
            "run the same command again",
        )
    check_identity(parts_path(staging), json.dumps(agreed.identity).encode(), identity(plan))
    return agreed


def publish_if_done(
    plan: Plan, table: RecordTable, folder: WorkFolder, output: Path, complete: Complete, *, overwrite: bool
) -> dict[str, Any] | None:
    """Complete and publish the output if all chunks are done, and give its manifest; None if some are not.

    Parameters
    ----------
    plan, table
        The plan, and the records of its chunks, which are filled in from the journals of all processes.
    folder
        The staging folder as it was when this process began.
    output, complete, overwrite
        As for `dovetail.engine.actions.carry_out_part.carry_out_part`.

    Raises
    ------
    FileNotFoundError
        Another process has published it.

    """
    staging = folder.path
    if count_entries(staging, plan.hash, table) < len(table.rows):
        return None
    read_journals(staging, plan.hash, table)
    if not table.rows["done"].all():
        return None
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()
    try:
        plan.options.format.reopen_sink(plan.layout, staging).close()
    except OSError as error:
        raise lost_files(staging, error) from error
    folder.check()
    own = own_folder(staging)
    for name, content in plan.layout.documents.items():
        write_durably(own / name, content)
    manifest = complete(plan, table, own)
    names = {path.name for path in own.iterdir()} | {Path(shard.file_name).parts[0] for shard in plan.layout.shards}
    put_in_place(own, folder, MANIFEST_NAME)
    remove_others(folder, names | {PARTS_NAME, JOURNAL_NAME, LOCK_NAME})
    if not publish_once(folder, output, overwrite=overwrite):
        raise FileNotFoundError(errno.ENOENT, "another process has published the output", str(staging))
    return manifest


def lost_files(staging: Path, error: OSError) -> OutputError:
    """Make the error for files of an unfinished output that are not as they were left."""
    return OutputError(
        f"unfinished output {staging} cannot be continued: {error.strerror} ({error.filename})",
        "the output files as the processes of this merge left them",
        "run the command with --restart, and without --part, to begin anew",
    )
