"""What a command has to know before it makes a part of an output: how the parts lay the output out."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dovetail.engine.actions.finished import is_made_by
from dovetail.engine.actions.verify import DEFECTS, read_manifest
from dovetail.engine.errors import RecipeError, VerificationError
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.output.staging import staging_path
from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.shares import balanced, resized
from dovetail.engine.run.journal import JOURNAL_NAME
from dovetail.engine.run.parts.folder import is_divided, read_layout
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import OutputFormatError
from dovetail.io.files.smallfile import is_named, look_anew


def laid_out(plan: Plan, output: Path, run: RunOptions) -> Plan:
    """Lay a plan out as all processes do that make parts of it.

    The first process makes shards so small that the parts are balanced. Whoever comes later, be it with another number
    of parts, keeps that size, and so does the command that finds the output finished.

    Parameters
    ----------
    plan
        The plan as it was asked for.
    output
        The output folder.
    run
        With the part that this process makes.

    Returns
    -------
    Plan
        The plan to carry out; the same one if nobody makes parts of it.

    Raises
    ------
    OutputError
        What the processes have agreed on is damaged.
    OutputFormatError
        The format cannot be written by several processes.

    """
    staging, form = staging_path(output), plan.options.format
    if run.part is not None and not form.takes_parts:
        raise OutputFormatError(
            f"{form.name} output cannot be made in parts", "a format that can", "merge it without a part"
        )
    look_anew(staging.parent)
    if is_divided(staging) and not run.restart:
        with contextlib.suppress(FileNotFoundError):  # it is being published
            return resized(plan, read_layout(staging).shard_limit_bytes)
    if run.part is None:
        return plan
    if is_named(staging / JOURNAL_NAME):  # one process has begun it alone
        return plan
    assert not isinstance(run.part, str)
    return _finished_plan(plan, output) or balanced(plan, run.part.count)


def _finished_plan(plan: Plan, output: Path) -> Plan | None:
    """Give the plan with the size of shards that a finished output has, if the output is just what is asked for."""
    if not is_named(output / MANIFEST_NAME):
        return None
    try:
        options = read_manifest(output)["options"]
        found = resized(plan, type(plan.options.format).from_json(options).shard_limit_bytes)
        return found if is_made_by(output, found.hash) else None
    except (VerificationError, *DEFECTS):
        return None


def refuse_part(run: RunOptions, what: str) -> None:
    """Refuse to make a part of what one process alone makes.

    Raises
    ------
    RecipeError
        A part is asked for.

    """
    if run.part is not None:
        raise RecipeError(
            f"part {run.part} of {what} is asked for", "a merge, or the store of one recipe", "leave the part out"
        )
