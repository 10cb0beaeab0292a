"""What a command has to know before it makes a part of an output: how the parts lay the output out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from dovetail.engine.actions.finished import is_made_by
from dovetail.engine.actions.verify import DEFECTS, read_manifest
from dovetail.engine.errors import RecipeError, VerificationError
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.output.staging import staging_path
from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.shares import balanced, resized
from dovetail.engine.run.clusters.find import is_cluster
from dovetail.engine.run.journal import JOURNAL_NAME
from dovetail.engine.run.parts.folder import is_divided, read_layout
from dovetail.engine.run.parts.launch import rank_of_launch
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import OutputFormatError
from dovetail.io.files.smallfile import is_named, look_anew
from dovetail.io.output_format import OutputFormat


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
    if run.part is not None:
        check_takes_parts(form)
    look_anew(staging.parent)
    if is_divided(staging) and not run.restart:
        with contextlib.suppress(FileNotFoundError):  # it is being published
            return resized(plan, read_layout(staging).shard_limit_bytes)
    if run.part is None:  # a cluster makes parts too, and lays the plan out when its workers are known
        return (_finished_plan(plan, output) or plan) if is_cluster(run.executor) else plan
    if is_named(staging / JOURNAL_NAME):  # one process has begun it alone
        return plan
    assert not isinstance(run.part, str)
    return _finished_plan(plan, output) or balanced(plan, run.part.count)


def check_takes_parts(form: OutputFormat[Any]) -> None:
    """Refuse a format that cannot be written by several processes; raises an OutputFormatError."""
    if not form.takes_parts:
        raise OutputFormatError(
            f"{form.name} output cannot be made in parts", "a format that can", "merge it by one process"
        )


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


def refuse_stages(run: RunOptions, what: str) -> None:
    """Refuse to make a part of several stages, each of which needs those before it as a whole; a cluster can make them.

    Raises
    ------
    RecipeError
        A part is asked for, by the user or by MPI.

    """
    if run.part is not None and run.part == rank_of_launch():
        raise RecipeError(
            f"MPI has started {run.part.count:,} processes, each of which is to make a part of {what}",
            "one process, which makes one stage after another, or hands each out",
            f"run it without mpiexec, or by mpiexec -n {run.part.count} python -m mpi4py.futures -m dovetail merge ...",
        )
    if run.part is not None:
        raise RecipeError(
            f"part {run.part} of {what} is asked for",
            "a part of one merge",
            "leave --part out, so that one process makes all stages; have a cluster make them (--executor); or write "
            "each stage into a recipe of its own, and make one after another in parts",
        )


def refuse_part(run: RunOptions, what: str) -> None:
    """Refuse to make a part of what one process alone makes, or to have it made by a cluster.

    Raises
    ------
    RecipeError
        A part, or a cluster, is asked for.

    """
    if run.part is not None:
        raise RecipeError(
            f"part {run.part} of {what} is asked for", "a merge, or the store of one recipe", "leave the part out"
        )
    if is_cluster(run.executor):
        raise RecipeError(
            f"a cluster is to make {what}", "a merge, or the store of one recipe", "leave the executor out"
        )
