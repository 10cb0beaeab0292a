"""Planning a merge without running it: the function `dovetail.engine.plan`."""

from __future__ import annotations

from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.recipe import RecipeSource


def plan(recipe: RecipeSource, options: PlanOptions | None = None) -> Plan:
    """Make the whole plan of a merge from its recipe and the headers of its checkpoints.

    No tensor is read or downloaded. The plan does not depend on the memory limit, the workers or the machine.

    Parameters
    ----------
    recipe
        A recipe of one document, as for `merge`.
    options
        The options that, with the recipe, decide the output's bytes.

    Returns
    -------
    Plan
        Tensors, output files, tasks, bytes to read and write, warnings, and a hash of everything that decides the
        output.

    Raises
    ------
    RecipeError
        The recipe or an option is wrong, or the recipe has several documents, which `plan_stages` plans.
    CheckpointError
        A checkpoint is bad, or the checkpoints do not fit together.

    Examples
    --------
    >>> planned = plan("recipe.yml", PlanOptions(dtype="float32"))
    >>> planned.models
    ('math', 'code')
    >>> planned.write_bytes > planned.read_bytes / 3
    True

    """
    return make_plan(recipe, options)
