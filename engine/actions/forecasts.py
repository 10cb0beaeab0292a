"""Planning a recipe of several documents: every stage, before the first of them is merged.

Stages that use results not there yet are planned from the plans of the stages that will make them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dovetail.engine import events
from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.program import Bytes
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.locations import Location, locate, open_location
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.recipe import ModelRef, RecipeSource
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
    recipe: RecipeSource, options: PlanOptions | None = None, folder: str | os.PathLike[str] | None = None
) -> tuple[Forecast, ...]:
    """Plan all stages of a recipe.

    Parameters
    ----------
    recipe
        A recipe of one or more documents, as for `merge`.
    options
        What else decides the outputs.
    folder
        Where results of stages are; None where there are none.

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
    where = None if folder is None else Path(folder)
    return tuple(forecast_stages(load_stages(recipe), options or PlanOptions(), where, everything=True))


def prepare_stages(
    forecasts: Sequence[Forecast], run: RunOptions, listen: events.Listener = events.ignore
) -> list[Budget | None]:
    """Fit the plan of every stage to the memory limit; raises as `prepare` does."""
    return [None if each.plan is None else prepare(each.plan, run, listen)[0] for each in forecasts]


def forecast_stages(
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
        complete = plan is not None and result is not None and stage is not stages[-1] and is_complete(result, plan)
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
        scratch_bytes = tensor.chunking.write_scratch_bytes
        source = PlannedSource(tensor.length, tensor.dtype.itemsize, scratch_bytes > 0, scratch_bytes)
        tensors[tensor.name] = TensorInfo(tensor.name, tensor.dtype, tensor.shape, source)
    return Checkpoint(path, None, tensors, {}, ())


def stage_locations(stage: Stage, stages: Sequence[Stage], folder: Path, listen: events.Listener) -> list[Location]:
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


def is_complete(result: Path, plan: Plan) -> bool:
    """Whether a folder holds the result of a plan."""
    return belongs_to(result / JOURNAL_NAME, plan)
