"""Where a search starts: weights of one, of 1/K, or in inverse proportion to the norms of the task vectors (NAN)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dovetail.engine import events
from dovetail.engine.actions.in_memory import NoSlot, run_plan
from dovetail.engine.errors import RecipeError
from dovetail.engine.output.manifest import total_statistics
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.recipe import load_recipe
from dovetail.engine.recipe.dumping import dump
from dovetail.engine.recipe.schema import Recipe
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.searching.reading import Template
from dovetail.engine.searching.space import Dimension, Value, Values
from dovetail.io.checkpoint import Checkpoint

WEIGHT = "weight"
"""The parameter that starting points are about; all others start in the middle, or where their mark says."""


def plain_start(template: Template) -> Values:
    """Give the values with weights of 1, or the nearest within the bounds."""
    return tuple(_start(each, 1.0) for each in template.space.dimensions)


def equal_start(template: Template, count: int) -> Values:
    """Give the values with weights of one divided by the number of models."""
    return tuple(_start(each, 1.0 / count) for each in template.space.dimensions)


def nan_start(
    template: Template,
    recipe: Recipe,
    checkpoints: Sequence[Checkpoint],
    options: PlanOptions,
    run: RunOptions,
    listen: events.Listener,
) -> Values:
    """Give the values with weights as NAN has them (arXiv:2505.16148): in inverse proportion to the norms of the task
    vectors, with a sum of 1. All models are read once.

    Parameters
    ----------
    template
        The recipe with marks.
    recipe
        The same with any values, for the names of its models.
    checkpoints
        Its checkpoints, opened, in the order of `Recipe.references`.
    options, run, listen
        As for `dovetail.engine.merge`.

    Raises
    ------
    RecipeError
        There is no base model, the models are not whole ones, several models share one weight, or a model has no
        changes.

    """
    if recipe.base_model is None or not recipe.models:
        raise _unfit("has no task vectors of whole models", "a base model, and a list of models")
    norms = _norms(recipe, checkpoints, options, run, listen)
    total = sum(1.0 / norm for norm in norms.values())
    found = []
    for each in template.space.dimensions:
        models = {str(recipe.models[index].model) for index in map(_model_of, each.places) if index is not None}
        if each.parameter != WEIGHT or each.start is not None:
            found.append(_start(each, 1.0))
            continue
        if len(models) != 1 or models > set(norms):
            raise _unfit(f"searches {each.label} for several models at once", "a weight of its own for each model")
        found.append(_start(each, 1.0 / norms[models.pop()] / total))
    return tuple(found)


def _norms(
    recipe: Recipe,
    checkpoints: Sequence[Checkpoint],
    options: PlanOptions,
    run: RunOptions,
    listen: events.Listener,
) -> Mapping[str, float]:
    """Measure the norms of the task vectors, by name of the model."""
    entries = [{"model": dump(each.model, defaults=True), "parameters": {WEIGHT: 1.0}} for each in recipe.models]
    base = dump(recipe.base_model, defaults=True) if recipe.base_model else None
    plain = load_recipe({"merge_method": "task_arithmetic", "base_model": base, "models": entries})
    opened = dict(zip(recipe.references(), checkpoints, strict=True))
    plan = make_plan(plain, options, checkpoints=[opened[ref] for ref in plain.references()])
    table = run_plan(plan, run, [NoSlot() for _ in plan.tensors], listen)
    norms = dict(zip(plan.models, total_statistics(plan, table)["task_vector_norm"], strict=True))
    if same := next((name for name, norm in norms.items() if not norm), None):
        raise _unfit(f"has the model {same}, which is equal to the base model", "models with changes")
    return norms


def _model_of(where: Sequence[str | int]) -> int | None:
    """Give the number of the model that a place is of; None for a place that is of no single model."""
    return where[1] if len(where) > 1 and where[0] == "models" and isinstance(where[1], int) else None


def _start(dimension: Dimension, weight: float) -> Value:
    if dimension.start is not None:
        return dimension.start
    if dimension.parameter == WEIGHT and dimension.kind in ("float", "int"):
        return dimension.nearest(weight)
    return dimension.middle()


def _unfit(what: str, expected: str) -> RecipeError:
    return RecipeError(f"the start is nan, and the recipe {what}", expected, "choose another start")
