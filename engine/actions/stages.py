"""Merging a recipe of several documents: every stage in turn, each like a merge of its own.

Results of stages lie in one folder, each under its stage's name with its journal, by which a later run knows that it
is the result of the same plan and leaves it as it is. All stages are planned before the first is merged: those that
use results not there yet, from the plans of the stages that will make them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out, input_paths
from dovetail.engine.errors import OutputError, RecipeError
from dovetail.engine.methods.program import Bytes
from dovetail.engine.output.manifest import stage_entry
from dovetail.engine.output.side_files import side_bytes
from dovetail.engine.output.staging import check_disk_space, check_target, stages_path, staging_path
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.locations import Location, locate, open_location
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.recipe import ModelRef
from dovetail.engine.recipe.places import nearest, one_of
from dovetail.engine.recipe.stages import Stage, load_stages
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.journal import JOURNAL_NAME, belongs_to
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.errors import MissingFileError
from dovetail.io.source import checked_source


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known of a stage before any is merged."""

    stage: Stage
    """The stage."""
    plan: Plan | None
    """What it will do; None where that can be said only when the stages that it needs are merged."""
    complete: bool
    """Whether its result is there already."""

    @property
    def title(self) -> str:
        """What people call it."""
        return self.stage.name or "the final merge"


@checked_source
@dataclass(frozen=True, slots=True)
class PlannedSource:
    """Elements of a tensor that is planned and not merged yet: they can be counted and not read."""

    length: int
    """Number of elements."""
    itemsize: int
    """Size of one element in bytes."""
    copies: bool
    """Whether reading will copy: it will if the stage writes Zarr."""
    scratch_bytes: int
    """Most memory that one read will take beyond what it returns."""

    def read(self, start: int, stop: int) -> Bytes:
        """Never called: plans that are made of plans are not carried out."""
        raise AssertionError("the stage that makes this tensor is not merged yet")

    def prefetch(self, start: int, stop: int) -> None:
        """Do nothing."""

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing."""
        return False

    def release(self, start: int, stop: int) -> None:
        """Do nothing."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give none: there is no file yet."""

    def decoding(self, start: int, stop: int) -> None:
        """Decode nothing."""

    def stored_objects(self) -> None:
        """Give none: nothing is stored yet."""


def plan_stages(
    recipe: str | Path, options: PlanOptions | None = None, folder: Path | None = None
) -> tuple[Forecast, ...]:
    """Plan all stages of a recipe.

    Parameters
    ----------
    recipe
        A YAML file of one or more documents.
    options
        What else decides the outputs.
    folder
        Where results of stages are; None where there are none.

    Raises
    ------
    RecipeError, CheckpointError
        As for a recipe of one document.

    """
    return tuple(_forecasts(load_stages(recipe), options or PlanOptions(), folder, everything=True))


def prepare_stages(
    forecasts: Sequence[Forecast], run: RunOptions, listen: events.Listener = events.ignore
) -> list[Budget | None]:
    """Fit the plan of every stage to the memory limit; raises as `prepare` does."""
    return [None if each.plan is None else prepare(each.plan, run, listen)[0] for each in forecasts]


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
        From `load_stages`.
    output, options, run, listen
        As for `merge`.
    kept
        Folder in which results are kept; None for one beside the output that is removed at the end.

    Returns
    -------
    dict
        The manifest of the final merge.

    """
    folder = kept or stages_path(output)
    if kept is None:
        _refuse_links(folder)
    elif output.resolve() in (kept.resolve(), *kept.resolve().parents):
        raise OutputError(
            f"the folder of the stages {kept} is or lies inside the output folder {output}",
            "a folder apart from it",
            "choose another for --stages",
        )
    if run.restart and kept is None and folder.exists():
        shutil.rmtree(folder)
    _check(stages, output, folder, options, run, everything=kept is not None)
    for stage in stages:
        if not stage.needed and kept is None:
            listen(events.Notice("warning", f"Nothing uses the stage {stage.name}: it is not merged."))
    todo = [stage for stage in stages if stage.needed or kept is not None]
    entries: dict[str, dict[str, Any]] = {}
    manifest: dict[str, Any] = {}
    for number, stage in enumerate(todo, 1):
        plan = make_plan(stage.recipe, options, _locations(stage, stages, folder, listen))
        earlier = [entries[name] for name in _all_needs(stage, stages)]
        if stage is stages[-1]:
            listen(events.Notice("info", f"Stage {number} of {len(todo)}: the final merge."))
            manifest = carry_out(plan, output, run, listen, earlier)
            continue
        assert stage.name is not None
        entries[stage.name], result = stage_entry(stage.name, plan), folder / stage.name
        if _is_complete(result, plan):
            listen(events.Notice("info", f"Stage {number} of {len(todo)}: {stage.name} is merged already."))
            continue
        listen(events.Notice("info", f"Stage {number} of {len(todo)}: {stage.name}."))
        # What stands in a folder of our own is of an earlier recipe.
        stage_run = run if kept else replace(run, overwrite=True)
        carry_out(plan, result, stage_run, listen, earlier, keep_journal=True)
    if kept is None:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _refuse_links(folder: Path) -> None:
    """Refuse links where a folder of our own is to be filled and removed: they lead to someone else's."""
    for path in (folder, *(folder.iterdir() if folder.is_dir() else ())):
        if path.is_symlink():
            raise OutputError(f"{path} is a link", "a folder that Dovetail has made", "remove the link")


def _check(
    stages: Sequence[Stage],
    output: Path,
    folder: Path,
    options: PlanOptions,
    run: RunOptions,
    *,
    everything: bool,
) -> None:
    """Find out before the first stage is merged whether all of them can be: memory, disk, and the final output."""
    needed: dict[int, tuple[Path, int]] = {}
    for forecast in _forecasts(stages, options, folder, everything=everything):
        if forecast.plan is None or forecast.complete:
            continue
        final = forecast.stage is stages[-1]
        target = output if final else folder / str(forecast.stage.name)
        if final and belongs_to(output / JOURNAL_NAME, forecast.plan):
            continue
        if final or everything:
            check_target(target, _existing(input_paths(forecast.plan)), overwrite=run.overwrite)
        prepare(forecast.plan, run)
        staging = staging_path(target)
        if not staging.exists():
            device = _device(staging)
            size = forecast.plan.write_bytes + side_bytes(forecast.plan)
            needed[device] = (staging, needed.get(device, (staging, 0))[1] + size)
    for place, size in needed.values():
        check_disk_space(place, size)


def _forecasts(
    stages: Sequence[Stage], options: PlanOptions, folder: Path | None, *, everything: bool
) -> Iterator[Forecast]:
    """Plan every stage from results that are there, or from the plans of those that are not."""
    expected: dict[str, Checkpoint | None] = {}
    for stage in stages:
        if not stage.needed and not everything:
            continue
        checkpoints = _checkpoints(stage, stages, expected)
        plan = None if checkpoints is None else make_plan(stage.recipe, options, checkpoints=checkpoints)
        result = None if folder is None or stage.name is None else folder / stage.name
        complete = plan is not None and result is not None and stage is not stages[-1] and _is_complete(result, plan)
        if stage.name is not None:
            if complete:
                expected[stage.name] = open_location(Location(str(result)))
            else:
                path = (folder or Path()) / stage.name
                expected[stage.name] = None if plan is None else _planned_checkpoint(plan, path.absolute())
        yield Forecast(stage, plan, complete)


def _checkpoints(
    stage: Stage, stages: Sequence[Stage], expected: Mapping[str, Checkpoint | None]
) -> list[Checkpoint] | None:
    """Open a stage's checkpoints, planned ones among them; None where those say too little."""
    unread = [name for name in stage.needs if (found := expected[name]) is None or not found.files]
    recipe = stage.recipe
    if unread and (recipe.tokenizer is not None or recipe.tokenizer_source not in (None, "base")):
        return None  # vocabularies are known when the results are there
    checkpoints = []
    for ref in recipe.references():
        if not _is_stage(ref, stage):
            checkpoints.append(open_location(_locate(ref, stage, stages)))
            continue
        found = expected[ref.path]
        if found is None or (ref.lora and not found.files):
            return None
        checkpoints.append(found)
    return checkpoints


def _planned_checkpoint(plan: Plan, path: Path) -> Checkpoint:
    tensors = {}
    for tensor in plan.tensors:
        # Decoding a chunk takes no more than encoding the object that holds it; safetensors take nothing either way.
        scratch_bytes = tensor.write_scratch_bytes
        source = PlannedSource(tensor.length, tensor.dtype.itemsize, scratch_bytes > 0, scratch_bytes)
        tensors[tensor.name] = TensorInfo(tensor.name, tensor.dtype, tensor.shape, source)
    return Checkpoint(path, None, tensors, {}, ())


def _locations(stage: Stage, stages: Sequence[Stage], folder: Path, listen: events.Listener) -> list[Location]:
    """Find a stage's models, results of other stages among them; those on a hub are downloaded."""
    return [
        locate(ref.model_copy(update={"path": str((folder / ref.path).absolute())}), stage.recipe.origin.folder)
        if _is_stage(ref, stage)
        else _locate(ref, stage, stages, listen)
        for ref in stage.recipe.references()
    ]


def _locate(ref: ModelRef, stage: Stage, stages: Sequence[Stage], download: events.Listener | None = None) -> Location:
    try:
        return locate(ref, stage.recipe.origin.folder, download)
    except (RecipeError, MissingFileError) as error:
        _explain(error, ref, [str(each.name) for each in stages if each.name and each is not stage])


def _explain(error: RecipeError | MissingFileError, ref: ModelRef, names: Sequence[str]) -> NoReturn:
    """Say which stages there are, as a model that is not there may be one misspelt."""
    hint = f"or {one_of(names)}, which are stages of the recipe; {nearest(ref.path, names)}".rstrip("; ")
    raise type(error)(error.what, error.expected, f"{error.action}, {hint}") from None


def _is_stage(ref: ModelRef, stage: Stage) -> bool:
    return ref.path in stage.needs and not ref.revision


def _is_complete(result: Path, plan: Plan) -> bool:
    """Whether a folder holds the result of a plan."""
    return belongs_to(result / JOURNAL_NAME, plan)


def _all_needs(stage: Stage, stages: Sequence[Stage]) -> list[str]:
    """Name the stages that a stage uses at first or second hand, in the order in which they are merged."""
    found = set(stage.needs)
    for other in reversed(stages):
        if other.name in found:
            found.update(other.needs)
    return [other.name for other in stages if other.name in found and other.name is not None]


def _existing(paths: Iterator[Path]) -> Iterator[Path]:
    return (path for path in paths if path.exists())


def _device(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return path.stat().st_dev
