"""Merging a recipe of several documents: each stage in turn is merged as a recipe of one document is.

The results of the stages lie in one folder, each in a folder with the name of its stage. From the manifest of a result,
a later run sees whether it is the result of the same plan and need not be merged again. All stages are planned before
the first is merged; those that use results of others are planned once more when these are there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out
from dovetail.engine.actions.finished import find_finished, tell_finished
from dovetail.engine.actions.forecasts import Made, forecast_stages, is_complete, stage_locations
from dovetail.engine.actions.spared import checkpoint_paths
from dovetail.engine.actions.staged_request import staged_request
from dovetail.engine.errors import OutputError
from dovetail.engine.output.manifest import stage_entry
from dovetail.engine.output.request import Request
from dovetail.engine.output.side_files import side_bytes
from dovetail.engine.output.staging import discard, discard_unused, is_bare, stages_path, staging_path, tidy_up
from dovetail.engine.output.target import check_disk_space, check_target
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.recipe.stages import Stage
from dovetail.engine.run.lock import locked
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.io.files.durable import write_durably
from dovetail.io.files.interrupts import check_interrupts, held

_IDENTITY: Final = "dovetail_stages"
"""Name of the file, in a folder of stages that is removed at the end, that says which merge the folder is for."""


def merge_stages(
    stages: Sequence[Stage],
    output: Path,
    options: PlanOptions,
    run: RunOptions,
    listen: events.Listener,
    kept: Path | None,
) -> dict[str, Any]:
    """Merge the stages of a recipe one after another; see `dovetail.engine.merge`.

    Parameters
    ----------
    stages
        The stages of the recipe, as `load_stages` gives them.
    output, options, run, listen
        As for `dovetail.engine.merge`.
    kept
        Folder in which the results of the stages are kept; None for one beside the output that is removed at the end.

    Returns
    -------
    dict
        The manifest of the final merge.

    """
    started = time.monotonic()
    folder = kept or stages_path(output)
    _make_way(folder, output, run, ours=kept is None)
    made: Made = {}
    request = staged_request(stages, options, made)
    finished = find_finished(output, request, _existing(checkpoint_paths(request.checkpoints)), run)
    if finished is not None and kept is None:
        if _is_folder_of(folder, request.hash) or is_bare(folder):
            discard_unused(folder)
        tell_finished(output, request.noun, finished, run, listen, started)
        return finished
    _check(stages, made, output, folder, options, run, everything=kept is not None, finished=finished is not None)
    with held(), locked(folder, listen) if kept is None else contextlib.nullcontext():
        if kept is None:
            write_durably(folder / _IDENTITY, request.hash.encode())
        manifest = _merge_each(stages, made, request, output, options, run, listen, kept, finished)
        if kept is None:
            discard(folder)
    if finished is not None:
        tell_finished(output, request.noun, finished, run, listen, started)
    return manifest


def _merge_each(
    stages: Sequence[Stage],
    made: Made,
    request: Request,
    output: Path,
    options: PlanOptions,
    run: RunOptions,
    listen: events.Listener,
    kept: Path | None,
    finished: dict[str, Any] | None,
) -> dict[str, Any]:
    """Merge every stage that is not merged yet, and then the final one unless that is finished; give its manifest."""
    folder = kept or stages_path(output)
    for stage in stages:
        if not stage.needed and kept is None:
            listen(events.Notice("warning", f"Nothing uses the stage {stage.name}: it is not merged."))
    *todo, final = [stage for stage in stages if stage.needed or kept is not None]
    entries: dict[str, dict[str, Any]] = {}

    def plan_next(stage: Stage) -> tuple[Plan, list[dict[str, Any]]]:
        plan = None if stage.needs else made.get(stage.name)
        if plan is None:
            plan = make_plan(stage.recipe, options, stage_locations(stage, stages, folder, listen))
        return plan, [entries[name] for name in _all_needs(stage, stages)]

    # The folder beside the output is ours: whatever it holds that is not this plan's comes from an earlier recipe.
    stage_run = run if kept else replace(run, overwrite=True)
    for number, stage in enumerate(todo, 1):
        assert stage.name is not None
        plan, earlier = plan_next(stage)
        check_interrupts()
        entries[stage.name], result = stage_entry(stage.name, plan), folder / stage.name
        if done := is_complete(result, plan):
            tidy_up(result)
        said = f"{stage.name} is merged already." if done else f"{stage.name}."
        listen(events.Notice("info", f"Stage {number} of {len(todo) + 1}: {said}"))
        if not done:
            carry_out(plan, result, stage_run, listen, earlier)
    if finished is not None:
        return finished
    plan, earlier = plan_next(final)
    listen(events.Notice("info", f"Stage {len(todo) + 1} of {len(todo) + 1}: the final merge."))
    for checkpoint in request.checkpoints:  # what a stage has read is what the output will be known by
        checkpoint.check_unchanged()
    if any(checkpoint.remote for checkpoint in request.checkpoints):  # models of a hub are downloaded by now
        request = staged_request(stages, options)
    return carry_out(plan, output, run, listen, earlier, known_by=request.hash)


def _is_folder_of(folder: Path, identity: str) -> bool:
    """Whether a folder of stages is that of a certain merge."""
    path = folder / _IDENTITY
    return path.is_file() and path.read_bytes() == identity.encode()


def _make_way(folder: Path, output: Path, run: RunOptions, *, ours: bool) -> None:
    """Check the folder of the stages; if Dovetail made it itself, `RunOptions.restart` removes it."""
    if ours:
        _refuse_links(folder)
    elif output.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise OutputError(
            f"the folder of the stages {folder} is or lies inside the output folder {output}",
            "a folder apart from the output folder",
            "choose another folder for --stages",
        )
    if run.restart and ours:
        discard_unused(folder)


def _refuse_links(folder: Path) -> None:
    """Refuse a stages folder that is or holds a link: Dovetail would fill and remove files that others have made."""
    for path in (folder, *(folder.iterdir() if folder.is_dir() else ())):
        if path.is_symlink():
            raise OutputError(f"{path} is a link", "a folder that Dovetail has made", "remove the link")


def _check(
    stages: Sequence[Stage],
    made: Made,
    output: Path,
    folder: Path,
    options: PlanOptions,
    run: RunOptions,
    *,
    everything: bool,
    finished: bool,
) -> None:
    """Check, before the first stage is merged, that every stage fits into memory and onto the disk and may be written.

    Raises
    ------
    OutputError
        The output, or the folder of a stage, is refused.
    MemoryLimitError, DiskSpaceError
        A stage does not fit.

    """
    needed: dict[int, tuple[Path, int]] = {}
    for forecast in forecast_stages(stages, options, folder, everything=everything, made=made):
        if forecast.plan is None or forecast.complete:
            continue
        final = forecast.stage is stages[-1]
        target = output if final else folder / str(forecast.stage.name)
        if final and finished:
            continue
        if final or everything:
            check_target(target, _existing(_read_now(forecast.plan)), overwrite=run.overwrite)
        prepare(forecast.plan, run)
        staging = staging_path(target)
        if not staging.exists():
            device = _device(staging)
            size = forecast.plan.write_bytes + side_bytes(forecast.plan)
            needed[device] = (staging, needed.get(device, (staging, 0))[1] + size)
    for place, size in needed.values():
        check_disk_space(place, size)


def _all_needs(stage: Stage, stages: Sequence[Stage]) -> list[str]:
    """Name the stages that a stage uses, directly or through other stages, in the order in which they are merged."""
    found = set(stage.needs)
    for other in reversed(stages):
        if other.name in found:
            found.update(other.needs)
    return [other.name for other in stages if other.name in found and other.name is not None]


def _read_now(plan: Plan) -> Iterator[Path]:
    """Give the paths of a plan that the output must spare, but for results that are not there yet."""
    if plan.recipe.origin.path is not None:
        yield plan.recipe.origin.path
    yield from checkpoint_paths(each for each in plan.checkpoints if not each.planned)


def _existing(paths: Iterator[Path]) -> Iterator[Path]:
    return (path for path in paths if path.exists())


def _device(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return path.stat().st_dev
