"""Carrying out one plan: begin or continue its staging folder, complete it, and publish it as the output."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.errors import InterruptedMergeError, OutputError
from dovetail.engine.output.card import conversion_card, model_card
from dovetail.engine.output.findings import findings
from dovetail.engine.output.manifest import build_manifest, total_statistics, write_manifest
from dovetail.engine.output.pictures import NO_PICTURES, PICTURE_NAMES, Picture, card_pictures
from dovetail.engine.output.side_files import side_bytes, write_side_files
from dovetail.engine.output.staging import discard, publish, staging_path
from dovetail.engine.output.target import check_disk_space, check_empty, check_target
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.execution import Execution
from dovetail.engine.run.journal import JOURNAL_NAME, Journal
from dovetail.engine.run.lock import LOCK_NAME, locked
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.engine.run.records import RecordTable
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.files.interrupts import held
from dovetail.io.files.machine import peak_resident_bytes
from dovetail.io.output_format import Sink

Complete = Callable[[Plan, RecordTable, Path], dict[str, Any]]
"""Writes the small files of an output and its manifest into the staging folder, and gives the manifest."""


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
    check_target(output, input_paths(plan), overwrite=run.overwrite)
    for warning in plan.warnings:
        listen(events.Notice("warning", warning))
    budget, table = prepare(plan, run, listen)
    plan = plan.frugal() if budget.frugal else plan
    if not staging.exists():
        check_disk_space(staging, plan.write_bytes + side_bytes(plan))
    with held(), locked(staging):  # within, requests to stop are answered between tasks
        if not run.overwrite:
            _check_still_empty(output, staging)
        if run.restart:
            _clear(staging)
        execution = _execute(plan, budget, table, staging, listen, run.executor)
        for checkpoint in plan.checkpoints:
            checkpoint.check_unchanged()
        # From here on it is faster to finish than to stop.
        if complete is None:
            manifest = _complete(plan, table, staging, earlier, known_by or plan.hash)
        else:
            manifest = complete(plan, table, staging)
        # The journal outlives the renaming, so that a crash at any instant before it loses nothing.
        publish(staging, output, overwrite=run.overwrite)
    if plan.options.card_pictures and not set(PICTURE_NAMES) & set(manifest["side_files"]):
        listen(events.Notice("warning", NO_PICTURES))
    for warning in findings(plan, table, manifest["totals"]):
        listen(events.Notice("warning", warning))
    listen(_done(output, execution, manifest["totals"], time.monotonic() - started))
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
    executor: Executor | None,
) -> Execution:
    """Run the tasks that are left, until every chunk of the output is durable in the staging folder."""
    with contextlib.closing(Journal(staging / JOURNAL_NAME, plan, table)) as journal:
        if journal.resumed_rows:
            share = journal.resumed_rows / len(table.rows)
            listen(events.Notice("info", f"Continuing an unfinished {plan.noun}: {share:.1%} of its chunks are done."))
        else:
            _clear(staging, keep={JOURNAL_NAME, LOCK_NAME})
        with contextlib.closing(_open_sink(plan, staging, resumed=bool(journal.resumed_rows))) as sink:
            execution = Execution(plan, budget, table, journal, sink, listen)
            check_disk_space(staging, execution.remaining_bytes)
            listen(_started(plan, budget, staging))
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


def input_paths(plan: Plan) -> Iterator[Path]:
    """List every path that the output must spare: the recipe, each checkpoint, and its files, which may be links."""
    if plan.recipe.origin.path is not None:
        yield plan.recipe.origin.path
    yield from checkpoint_paths(plan.checkpoints)


def checkpoint_paths(checkpoints: Iterable[Checkpoint]) -> Iterator[Path]:
    """Give the places of checkpoints, of all their files, and of their adapters."""
    for checkpoint in checkpoints:
        if isinstance(checkpoint.path, str):
            continue  # an address
        yield checkpoint.path
        if checkpoint.folder is not None:
            # Only Zarr has files in inner folders, and its reader has checked that no link leads out of those.
            yield from (checkpoint.folder / file.name for file in checkpoint.files if "/" not in file.name)
        if checkpoint.adapter is not None:
            yield from (checkpoint.adapter.folder, *checkpoint.adapter.paths)


def _complete(
    plan: Plan, table: RecordTable, staging: Path, earlier: Sequence[Mapping[str, Any]], known_by: str
) -> dict[str, Any]:
    """Write the side files and the manifest into the staging folder, and return the manifest without its tensors."""
    pictures = card_pictures(plan, table) if plan.options.card_pictures and not plan.is_conversion else []
    side_files = write_side_files(plan, staging, _card(plan, table, earlier, pictures), pictures=pictures)
    manifest = build_manifest(plan, table, side_files, earlier)
    write_manifest(staging, manifest, plan, table, known_by, earlier)
    return manifest


def _card(plan: Plan, table: RecordTable, earlier: Sequence[Mapping[str, Any]], pictures: Sequence[Picture]) -> str:
    if plan.is_conversion:
        return conversion_card(plan)
    return model_card(plan, total_statistics(plan, table), earlier, pictures)


def _clear(staging: Path, keep: frozenset[str] | set[str] = frozenset({LOCK_NAME})) -> None:
    """Remove everything from the staging folder but the files with the names in `keep`."""
    for path in staging.iterdir():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _started(plan: Plan, budget: Budget, staging: Path) -> events.Started:
    return events.Started(
        method=plan.method.name,
        tensors=len(plan.tensors),
        tasks=plan.task_count,
        read_bytes=plan.read_bytes,
        write_bytes=plan.write_bytes,
        allowed_bytes=budget.allowed_bytes,
        reserved_bytes=budget.reserved_bytes,
        projected_bytes=budget.projected_bytes,
        workers=budget.workers,
        staging=str(staging),
    )


def _done(output: Path, execution: Execution, totals: dict[str, Any], seconds: float) -> events.Done:
    return events.Done(
        output=str(output),
        seconds=seconds,
        merge_seconds=execution.seconds,
        read_bytes=execution.read_bytes,
        written_bytes=execution.written_bytes,
        peak_resident_bytes=peak_resident_bytes(),
        allowed_bytes=execution.budget.allowed_bytes,
        workers=execution.budget.workers,
        summary=totals,
    )
