"""Carrying out one plan: begin or continue its staging folder, complete it, and publish it as the output."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.completion import Complete, complete_model, done_event, started_event, tell_findings
from dovetail.engine.actions.finished import is_finished
from dovetail.engine.actions.parts import laid_out
from dovetail.engine.actions.spared import input_paths
from dovetail.engine.errors import InterruptedMergeError, OtherLayoutError, OutputError
from dovetail.engine.output.publishing import restore_former
from dovetail.engine.output.side_files import expected_side_files, side_bytes
from dovetail.engine.output.staging import clear, discard, publish, staging_path
from dovetail.engine.output.target import check_disk_space, check_empty, check_target
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.clusters.find import is_cluster
from dovetail.engine.run.execution import Execution
from dovetail.engine.run.journal import JOURNAL_NAME, Journal
from dovetail.engine.run.lock import LOCK_NAME, locked
from dovetail.engine.run.parts.folder import is_divided
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.engine.run.records import RecordTable
from dovetail.io.files.interrupts import held
from dovetail.io.output_format import Sink


def carry_out(
    plan: Plan,
    output: Path,
    run: RunOptions,
    listen: events.Listener,
    earlier: Sequence[Mapping[str, Any]] = (),
    *,
    started: float | None = None,
    known_by: str | None = None,
    complete: Complete | None = None,
    balance: bool = False,
) -> dict[str, Any]:
    """Run those tasks of a plan that no earlier run has done, and publish the output.

    Parameters
    ----------
    plan
        The plan of a merge or of a conversion.
    output, run, listen
        As for `dovetail.engine.merge`.
    earlier
        The manifest's entries for the stages of which the plan uses results.
    started
        When the work began, planning included, by the monotonic clock; None for now.
    known_by
        Hash by which the output is known again; None for the plan's.
    complete
        Writes the small files and the manifest into the staging folder; None for those of a model.
    balance
        Whether the workers of a cluster may cut the output into smaller files, so that their parts are even.

    Returns
    -------
    dict
        The manifest without its ``tensors``.

    Raises
    ------
    DovetailError
        As `dovetail.engine.merge` does for a recipe that has been planned.

    """
    started = time.monotonic() if started is None else started
    staging = staging_path(output)

    def complete_usually(plan: Plan, table: RecordTable, folder: Path) -> dict[str, Any]:
        return complete_model(plan, table, folder, earlier, known_by or plan.hash)

    special, complete = complete is not None, complete or complete_usually

    def is_made(plan: Plan) -> bool:
        return is_finished(output, known_by or plan.hash, dict if special else lambda: expected_side_files(plan))

    if is_cluster(run.executor):
        from dovetail.engine.actions.hand_out import hand_out

        def hand_it_out(again: Plan) -> dict[str, Any]:
            told = again is not plan
            return hand_out(
                again, output, run, listen, complete, started=started, finished=is_made, balance=balance, warned=told
            )

        return _as_agreed(plan, lambda: laid_out(plan, output, run), hand_it_out)

    def carry_out_parts(*, warned: bool) -> dict[str, Any]:
        from dovetail.engine.actions.carry_out_part import carry_out_part

        # A part is laid out already; whoever comes without one keeps to what the parts have agreed on meanwhile.
        first = laid_out(plan, output, run) if run.part is None else plan

        def make(again: Plan) -> dict[str, Any]:
            made, told = partial(is_made, again), warned or again is not first
            return carry_out_part(again, output, run, listen, complete, started=started, finished=made, warned=told)

        return _as_agreed(first, lambda: laid_out(plan, output, run), make)

    if run.part is not None or (is_divided(staging) and not run.restart):
        return carry_out_parts(warned=False)
    check_target(output, input_paths(plan), overwrite=run.overwrite)
    for warning in plan.warnings:
        listen(events.Notice("warning", warning))
    budget, table = prepare(plan, run, listen)
    lean = plan.frugal() if budget.frugal else plan
    if not staging.exists():
        check_disk_space(staging, plan.write_bytes + side_bytes(plan))
    with held(), locked(staging, listen) as sure:  # within, requests to stop are answered between tasks
        if run.restart:
            restore_former(staging, output)
        if not run.overwrite:
            _check_still_empty(output, staging)
        if run.restart:
            clear(staging, {LOCK_NAME})
        if (sure or not plan.options.format.takes_parts) and not is_divided(staging):
            return _carry_out(lean, budget, table, output, run, listen, complete, started)
    # Parts have been made while this process was planning; or nothing keeps a second process out, and then the way of
    # several processes is right for this one too.
    return carry_out_parts(warned=True)


def _as_agreed(plan: Plan, lay_out: Callable[[], Plan], make: Callable[[Plan], dict[str, Any]]) -> dict[str, Any]:
    """Make what a plan says, laid out as another process has decided meanwhile, if one has."""
    while True:
        try:
            return make(plan)
        except OtherLayoutError:  # decided by a process that makes a part of another number of them
            if (other := lay_out()).hash == plan.hash:
                raise
        plan = other


def _carry_out(
    plan: Plan,
    budget: Budget,
    table: RecordTable,
    output: Path,
    run: RunOptions,
    listen: events.Listener,
    complete: Complete,
    started: float,
) -> dict[str, Any]:
    """Carry a plan out in a staging folder that no other process works in."""
    staging = staging_path(output)
    execution = _execute(plan, budget, table, staging, listen, run.executor)
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()
    # From here on it is faster to finish than to stop.
    manifest = complete(plan, table, staging)
    # The journal outlives the renaming, so that a crash at any instant before it loses nothing.
    publish(staging, output, overwrite=run.overwrite)
    tell_findings(plan, table, manifest, listen)
    listen(done_event(output, execution, manifest["totals"], time.monotonic() - started))
    return manifest


def _check_still_empty(output: Path, staging: Path) -> None:
    """Refuse an output that another process has made while this one was waiting or planning."""
    try:
        check_empty(output)
    except OutputError:
        if [LOCK_NAME] == [path.name for path in staging.iterdir()]:
            discard(staging)
        raise


def _execute(
    plan: Plan,
    budget: Budget,
    table: RecordTable,
    staging: Path,
    listen: events.Listener,
    executor: object,
) -> Execution:
    """Run the tasks that are left, until every chunk of the output is durable in the staging folder."""
    with contextlib.closing(Journal(staging / JOURNAL_NAME, plan, table)) as journal:
        if journal.resumed_rows:
            share = journal.resumed_rows / len(table.rows)
            listen(events.Notice("info", f"Continuing an unfinished {plan.noun}: {share:.1%} of its chunks are done."))
        else:
            _clear_unused(staging, {JOURNAL_NAME, LOCK_NAME})
        with contextlib.closing(_open_sink(plan, staging, resumed=bool(journal.resumed_rows))) as sink:
            execution = Execution(plan, budget, table, journal, sink, listen)
            check_disk_space(staging, execution.remaining_bytes)
            listen(started_event(plan, budget, staging))
            try:
                execution.run(executor)
            except KeyboardInterrupt:
                raise InterruptedMergeError(
                    f"{plan.noun} interrupted; {table.rows['done'].mean():.1%} of its chunks are safe in {staging}",
                    action="run the same command again to continue",
                ) from None
    return execution


def _open_sink(plan: Plan, staging: Path, *, resumed: bool) -> Sink:
    """Create the output files, or open those of the interrupted run."""
    if not resumed:
        return plan.options.format.create_sink(plan.layout, staging)
    try:
        return plan.options.format.reopen_sink(plan.layout, staging)
    except OSError as error:
        raise OutputError(
            f"unfinished output {staging} cannot be continued: {error.strerror} ({error.filename})",
            "the output files as the interrupted merge left them",
            "pass --restart to begin anew",
        ) from error


def _clear_unused(staging: Path, keep: set[str]) -> None:
    """Do as `clear` before work begins, unless there are parts, which only ``--restart`` throws away."""
    if is_divided(staging):
        raise OutputError(
            f"unfinished output {staging} holds parts of a merge",
            "a folder in which no parts are made",
            "run the same command again to continue them, or pass --restart to begin anew",
        )
    clear(staging, keep)
