"""Making a plan: recipe and checkpoint headers in, `Plan` out.

No tensor data is read, but of tensors of which it matters whether they are copies of others.
"""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.engine import events
from dovetail.engine.planning.copies import is_copy
from dovetail.engine.planning.locations import Location, locate, open_location
from dovetail.engine.planning.opened import plan_opened
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.recipe import Recipe, RecipeSource, load_recipe
from dovetail.engine.recipe.unused import refuse_unused
from dovetail.io.checkpoint import Checkpoint, only_inputs
from dovetail.io.files.collector import collector_paused
from dovetail.io.formats.config import config_of
from dovetail.io.formats.parsed import headers_shared


@collector_paused()
@only_inputs()
def make_plan(
    recipe: RecipeSource | Recipe,
    options: PlanOptions | None = None,
    locations: Sequence[Location] | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
    download: events.Listener | None = None,
) -> Plan:
    """Decide everything about a merge from the recipe and the checkpoints' headers.

    The result depends on nothing else: not on memory, workers or the machine.

    Parameters
    ----------
    recipe
        A recipe of one document, or what was read from it; see `dovetail.engine.recipe.load.read_origin`.
    options
        What else decides the output.
    locations
        Where the checkpoints are, in the order of `Recipe.references`; None to look where the recipe says.
    checkpoints
        The checkpoints themselves, in the same order, where they are open already.
    download
        Told of what is downloaded of models on a hub; None to download no weights: the headers of those that are not
        in the hub's cache are then read through the network.

    Raises
    ------
    RecipeError
        The recipe or an option is wrong.
    CheckpointError
        A checkpoint is bad, or the checkpoints do not fit together.

    """
    options = options or PlanOptions()
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if options.strict:
        refuse_unused([recipe])
    opened = tuple(open_checkpoints(recipe, locations, download) if checkpoints is None else checkpoints)
    configs = [config_of(checkpoint) for checkpoint in opened]
    if recipe.vectors is None:
        return plan_opened(recipe, options, opened, configs, is_copy)
    from dovetail.engine.planning.vectors.using import open_store, use_store

    store = open_store(opened[-1], str(recipe.vectors))
    cast = store.cast(recipe, opened, configs, is_copy)
    return use_store(plan_opened(recipe, options, *cast), store, opened[:-1])


def open_checkpoints(
    recipe: Recipe, locations: Sequence[Location] | None, download: events.Listener | None
) -> list[Checkpoint]:
    """Open the checkpoints of a recipe, at the given places or where the recipe says."""
    if locations is None:
        locations = [locate(ref, recipe.origin.folder, download) for ref in recipe.references()]
    with headers_shared():
        return [open_location(location) for location in locations]
