"""The merge itself, from a recipe to a published folder: the function behind ``dovetail merge``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.recipe.stages import load_stages
from dovetail.engine.run.prepare import RunOptions


def merge(
    recipe: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: PlanOptions | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    stages: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Merge checkpoints as a recipe says, and write the result into a folder.

    The same call after an interruption continues where the journal ends.

    Parameters
    ----------
    recipe
        A mergekit YAML file; of several documents, each is a stage that can use the results of others by name.
    output
        Folder to make; it appears under its name only when it is complete.
    options
        What decides the output's bytes.
    run
        How the work is done; no effect on the output's bytes.
    listen
        Receives events while the merge goes on, on the calling thread.
    stages
        Folder in which the results of stages are kept, each under its name; None to remove them at the end.

    Returns
    -------
    dict
        The manifest but for its ``tensors``, of which there can be many: `dovetail.engine.read_manifest` reads all.

    Raises
    ------
    DovetailError
        One of the tree in `dovetail.engine.errors` and `dovetail.io.errors`.

    """
    from dovetail.engine.actions.stages import merge_stages  # which merges each stage by the function below

    started = time.monotonic()
    found, output, options, run = load_stages(recipe), Path(output), options or PlanOptions(), run or RunOptions()
    if len(found) > 1:
        return merge_stages(found, output, options, run, listen, None if stages is None else Path(stages))
    return carry_out(make_plan(found[0].recipe, options, download=listen), output, run, listen, started=started)
