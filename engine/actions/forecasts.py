"""Planning every stage of a recipe of several documents before the first stage is merged.

Where a stage uses a result that does not exist yet, it is planned from the plan of the stage that will make the result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from dovetail.engine import events
from dovetail.engine.actions.finished import is_made_by
from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.locations import Location, locate, open_location
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.recipe import ModelRef, RecipeSource
from dovetail.engine.recipe.places import nearest, one_of
from dovetail.engine.recipe.stages import Stage, load_stages
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.errors import MissingFileError
from dovetail.io.files.home import expand_home
from dovetail.io.formats.parsed import headers_shared
from dovetail.io.sources.absent import AbsentSource

_NOT_YET: Final = "the stage that makes this tensor is not merged yet"

Made = dict[str | None, Plan]
"""The plans that were made of stages from models on this machine and from plans of other stages, by the stages' names.
They hold as long as no result of another stage is there to be read."""

_MOST_MADE: Final = 5_000
"""Most tensors in all plans that are kept to be used again: 10 MB. Those of larger recipes are made again instead."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The plan of a stage, made before any stage is merged."""

    stage: Stage
    """The stage."""
    plan: Plan | None
    """Its plan; None if it can be planned only after the stages that it needs are merged."""
    complete: bool
    """Whether its result exists already."""

    def __repr__(self) -> str:
        method, state = self.stage.recipe.merge_method, "complete" if self.complete else "to be merged"
        return f"Forecast({self.title}: {method}, {state})"

    @property
    def title(self) -> str:
        """The stage's name, as it is shown to people."""
        return self.stage.name or "the final merge"


def plan_stages(
    recipe: RecipeSource, options: PlanOptions | None = None, folder: str | os.PathLike[str] | None = None
) -> tuple[Forecast, ...]:
    """Plan all stages of a recipe.

    Parameters
    ----------
    recipe
        A recipe of one or more documents, as for `merge`.
    options
        The options that, with the recipe, decide the outputs' bytes.
    folder
        Folder with results of stages that an earlier merge has kept; None if there is none.

    Returns
    -------
    tuple of Forecast
        The stages in the order in which they are merged, the final merge last.

    Raises
    ------
    RecipeError
        The recipe or an option is wrong.
    CheckpointError
        A checkpoint is bad, or the checkpoints do not fit together.

    Examples
    --------
    >>> [forecast.title for forecast in plan_stages("stages.yml")]
    ['average', 'the final merge']

    """
    where = None if folder is None else expand_home(folder)
    options = options or PlanOptions()
    return tuple(forecast_stages(load_stages(recipe, strict=options.strict), options, where, everything=True))


def prepare_stages(
    forecasts: Sequence[Forecast], run: RunOptions, listen: events.Listener = events.ignore
) -> list[Budget | None]:
    """Fit the plan of every stage to the memory limit; raises as `prepare` does."""
    return [None if each.plan is None else prepare(each.plan, run, listen)[0] for each in forecasts]


def forecast_stages(
    stages: Sequence[Stage],
    options: PlanOptions,
    folder: Path | None,
    *,
    everything: bool,
    results: bool = True,
    made: Made | None = None,
) -> Iterator[Forecast]:
    """Plan the stages one after another, each from the results of others, or from their plans if there is no result.

    Parameters
    ----------
    stages
        The stages of the recipe, in the order in which they are merged.
    options
        The options that, with the recipe, decide the outputs' bytes.
    folder
        Folder of the stages' results; None if there is none.
    everything
        Whether stages that nothing uses are planned too.
    results
        Whether results that exist already are read; else every stage is planned from the plans of others.
    made
        Receives the plans that hold later, and has those of an earlier call, which need not be made again.

    """
    made = {} if made is None else made
    expected: dict[str, Checkpoint | None] = {}
    for stage in stages:
        if not stage.needed and not everything:
            continue
        unread = all((found := expected[name]) is not None and found.planned for name in stage.needs)
        plan = made.get(stage.name) if unread else None
        if plan is None:
            checkpoints = _checkpoints(stage, stages, expected)
            plan = None if checkpoints is None else make_plan(stage.recipe, options, checkpoints=checkpoints)
            if plan is not None and unread and _holds_later(plan, made):
                made[stage.name] = plan
        result = None if folder is None or stage.name is None or not results else folder / stage.name
        complete = plan is not None and result is not None and stage is not stages[-1] and is_complete(result, plan)
        if stage.name is not None:
            if complete:
                expected[stage.name] = open_location(Location(str(result)))
            else:
                path = (folder or Path()) / stage.name
                expected[stage.name] = None if plan is None else _planned_checkpoint(plan, path.absolute())
        yield Forecast(stage, plan, complete)


def _holds_later(plan: Plan, made: Made) -> bool:
    """Whether a plan is kept beside others: models on a hub may be downloaded until it is carried out."""
    size = len(plan.tensors) + sum(len(other.tensors) for other in made.values())
    return size <= _MOST_MADE and not any(each.remote for each in plan.checkpoints)


def real_checkpoints(forecast: Forecast, stages: Sequence[Stage]) -> list[Checkpoint]:
    """Give the checkpoints of a stage that are no results of other stages."""
    if forecast.plan is not None:
        return [each for each in forecast.plan.checkpoints if not each.planned]
    stage = forecast.stage
    refs = [ref for ref in stage.recipe.references() if not _is_stage(ref, stage)]
    with headers_shared():
        return [open_location(_locate(ref, stage, stages)) for ref in refs]


def _checkpoints(
    stage: Stage, stages: Sequence[Stage], expected: Mapping[str, Checkpoint | None]
) -> list[Checkpoint] | None:
    """Open a stage's checkpoints, or take planned ones; None if a planned one does not say enough to plan the stage."""
    unread = [name for name in stage.needs if (found := expected[name]) is None or found.planned]
    recipe = stage.recipe
    if unread and (recipe.tokenizer is not None or recipe.tokenizer_source not in (None, "base")):
        return None  # a vocabulary is read from a result, and not planned
    checkpoints = []
    with headers_shared():
        for ref in recipe.references():
            if not _is_stage(ref, stage):
                checkpoints.append(open_location(_locate(ref, stage, stages)))
                continue
            found = expected[ref.path]
            if found is None or (ref.lora and found.planned):
                return None
            checkpoints.append(found)
    return checkpoints


def _planned_checkpoint(plan: Plan, path: Path) -> Checkpoint:
    tensors = {}
    for tensor in plan.tensors:
        # Decoding a chunk takes no more memory than encoding the object that holds it; safetensors take none for both.
        scratch_bytes = tensor.chunking.write_scratch_bytes
        source = AbsentSource(tensor.length, tensor.dtype.itemsize, _NOT_YET, scratch_bytes > 0, scratch_bytes)
        tensors[tensor.name] = TensorInfo(tensor.name, tensor.dtype, tensor.shape, source)
    return Checkpoint(path, None, tensors, {}, (), planned=True)


def stage_locations(stage: Stage, stages: Sequence[Stage], folder: Path, listen: events.Listener) -> list[Location]:
    """Find the places of a stage's models, some of which may be results of other stages; download those on a hub."""
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
        if isinstance(error.__cause__, OSError):  # the model is there, but cannot be read: nobody misspelt a stage
            raise
        _explain(error, ref, [str(each.name) for each in stages if each.name and each is not stage])


def _explain(error: RecipeError | MissingFileError, ref: ModelRef, names: Sequence[str]) -> NoReturn:
    """Raise the error again with the names of other stages, because the missing model may be a misspelt stage."""
    if not names:
        raise error
    are = "which are stages" if len(names) > 1 else "which is a stage"
    hint = f"or name {one_of(names)}, {are} of the recipe; {nearest(ref.path, names)}".rstrip("; ")
    raise type(error)(error.what, error.expected, f"{error.action}, {hint}") from None


def _is_stage(ref: ModelRef, stage: Stage) -> bool:
    return ref.path in stage.needs and not ref.revision


def is_complete(result: Path, plan: Plan) -> bool:
    """Whether a folder holds the result of a plan."""
    return is_made_by(result, plan.hash)
