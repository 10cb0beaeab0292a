"""Completing an output whose tensors are all there: its small files and its manifest, and what a person is told.

What writes the card is imported then, and not before the first task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.engine import events
from dovetail.engine.output.manifest import build_manifest, total_statistics, write_manifest
from dovetail.engine.output.side_files import write_side_files
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.execution import Execution
from dovetail.engine.run.records import RecordTable
from dovetail.io.files.machine import peak_resident_bytes

if TYPE_CHECKING:
    from dovetail.engine.output.pictures import Picture

Complete = Callable[[Plan, RecordTable, Path], dict[str, Any]]
"""Writes the small files of an output and its manifest into the staging folder, and gives the manifest."""


def complete_model(
    plan: Plan, table: RecordTable, staging: Path, earlier: Sequence[Mapping[str, Any]], known_by: str
) -> dict[str, Any]:
    """Write the side files and the manifest into the staging folder, and return the manifest without its tensors."""
    from dovetail.engine.output.pictures import card_pictures

    pictures = card_pictures(plan, table) if plan.options.card_pictures and not plan.is_conversion else []
    side_files = write_side_files(plan, staging, _card(plan, table, earlier, pictures), pictures=pictures)
    manifest = build_manifest(plan, table, side_files, earlier)
    write_manifest(staging, manifest, plan, table, known_by, earlier)
    return manifest


def _card(plan: Plan, table: RecordTable, earlier: Sequence[Mapping[str, Any]], pictures: Sequence[Picture]) -> str:
    from dovetail.engine.output.card import conversion_card, model_card

    if plan.is_conversion:
        return conversion_card(plan)
    return model_card(plan, total_statistics(plan, table), earlier, pictures)


def tell_findings(plan: Plan, table: RecordTable, manifest: Mapping[str, Any], listen: events.Listener) -> None:
    """Warn of what a person should look at in a finished output."""
    from dovetail.engine.output.findings import findings
    from dovetail.engine.output.pictures import NO_PICTURES, PICTURE_NAMES

    if plan.options.card_pictures and not set(PICTURE_NAMES) & set(manifest["side_files"]):
        listen(events.Notice("warning", NO_PICTURES))
    for warning in findings(plan, table, manifest["totals"]):
        listen(events.Notice("warning", warning))


def started_event(plan: Plan, budget: Budget, staging: Path) -> events.Started:
    """Say that the first task of a plan is about to run."""
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


def data_bytes(plan: Plan) -> int:
    """Give the bytes of an output's data before any compression; at most that, where it depends on the values."""
    return sum(tensor.length * tensor.dtype.itemsize for tensor in plan.tensors)


def done_event(output: Path, execution: Execution, totals: dict[str, Any], seconds: float) -> events.Done:
    """Say that an output has its name."""
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
        output_bytes=execution.written_bytes if execution.share_made == 1 else data_bytes(execution.plan),
        share_made=execution.share_made,
    )
