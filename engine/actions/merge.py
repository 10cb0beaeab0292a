"""Merging checkpoints, from a recipe to a published folder: the function behind ``dovetail merge``."""

from __future__ import annotations

import os
import time
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out
from dovetail.engine.actions.finished import find_finished, tell_finished
from dovetail.engine.actions.given_manifest import gives_manifest
from dovetail.engine.actions.parts import laid_out, refuse_stages
from dovetail.engine.actions.spared import input_paths
from dovetail.engine.output.request import plan_request
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.progress import shows_progress
from dovetail.engine.recipe import RecipeSource
from dovetail.engine.recipe.stages import load_stages
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.files.home import expand_home


@gives_manifest
@shows_progress("merging")
def merge(
    recipe: RecipeSource,
    output: str | os.PathLike[str],
    options: PlanOptions | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    stages: str | os.PathLike[str] | None = None,
    *,
    progress: bool | events.Listener = False,
) -> dict[str, Any]:
    """Merge checkpoints as a recipe says, and write the result into a folder.

    After an interruption, the same call continues the merge from its journal. If the output is complete and was made by
    the same recipe, options and inputs, the call does nothing.

    Parameters
    ----------
    recipe
        The path of a mergekit YAML file, YAML text of several lines, or a dict. If the text has several documents, each
        is a stage that can use the results of others by their names. The relative path of a model is looked for in the
        current folder, and then, if the recipe is a file, in the recipe's folder.
    output
        Folder to make; it appears under its name only when it is complete.
    options
        The options that, with the recipe, decide the output's bytes.
    run
        How the work is done; this does not change the output's bytes.
    listen
        Receives events while the merge goes on, on the calling thread.
    stages
        Folder in which the results of stages are kept, each under its name; None to remove them at the end.
    progress
        True shows a bar with bytes done, rate and time left, in a terminal or a notebook. A function receives every
        event, as `listen` does.

    Returns
    -------
    Manifest
        A dict: the manifest without its ``tensors``, which can be many; `dovetail.engine.read_manifest` reads them too.
        It is empty where `RunOptions.part` is done and other parts are left.

    Raises
    ------
    RecipeError
        The recipe or an option is wrong.
    CheckpointError
        A checkpoint is bad, or the checkpoints do not fit together.
    MemoryLimitError, DiskSpaceError
        The merge does not fit into the memory limit or onto the disk; no tensor has been read.
    OutputError
        The output folder is refused because files would be lost, or the output cannot be written.
    InterruptedMergeError
        The merge was interrupted and can be continued.

    Examples
    --------
    >>> models = [{"model": name, "parameters": {"weight": 0.5}} for name in ("math", "code")]
    >>> manifest = merge({"merge_method": "linear", "models": models}, "merged")
    >>> manifest["models"]
    ['math', 'code']

    """
    started = time.monotonic()
    options, run, output = options or PlanOptions(), run or RunOptions(), expand_home(output)
    found = load_stages(recipe, strict=options.strict)
    if len(found) > 1:
        from dovetail.engine.actions.merge_stages import merge_stages

        refuse_stages(run, f"a recipe of {len(found)} stages")
        return merge_stages(found, output, options, run, listen, None if stages is None else expand_home(stages))
    plan = laid_out(make_plan(found[0].recipe, options, download=listen), output, run)
    if (manifest := find_finished(output, plan_request(plan), input_paths(plan), run)) is not None:
        tell_finished(output, plan.noun, manifest, run, listen, started)
        return manifest
    return carry_out(plan, output, run, listen, started=started, balance=True)
