"""Searching the best values of a recipe: the function behind ``dovetail search``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.parts import refuse_part
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.recipe import RecipeSource
from dovetail.engine.recipe.load import read_origin
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.searching.history import SearchResult
from dovetail.engine.searching.options import SearchOptions
from dovetail.engine.searching.reading import read_template
from dovetail.engine.searching.request import Request
from dovetail.io.files.home import expand_home


def search(
    recipe: RecipeSource,
    evaluate: str | Callable[[Any], Any],
    output: str | os.PathLike[str],
    search_options: SearchOptions | None = None,
    options: PlanOptions | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
) -> SearchResult:
    """Search the values of a recipe that make the best merge, as an evaluator finds it.

    In the recipe, values are marked to be searched: ``weight: {search: [0.1, 2.0]}``. Every candidate is a whole merge.
    What is known of a candidate is on the disk at once: after an interruption the same call goes on, repeats nothing
    that was evaluated, and comes to the same result.

    Parameters
    ----------
    recipe
        A recipe with marks, in any of the forms that `merge` takes.
    evaluate
        Says how good a candidate is, by a number (the greater the better) or by losses by task. A function gives these;
        it is given the candidate's folder, or its tensors if `SearchOptions.given` asks for them, and is called on
        another thread. A command is run by the shell and prints them as JSON; it gets the folder in the place of
        ``{}``, or else as its last argument. What fails, or gives anything else, is a candidate that failed.
    output
        Folder to make: ``recipe.yml``, ``model`` and ``history.json``.
    search_options
        How the search is made.
    options
        The options that, with the recipe, decide a candidate's bytes.
    run
        How candidates are merged; its `overwrite` and `restart` are about the search.
    listen
        Receives events while the search goes on, on the calling thread.

    Returns
    -------
    SearchResult
        The best values, what the evaluator gave for them, and the history.

    Raises
    ------
    RecipeError
        The recipe, a mark or an option is wrong, or the method refuses a value that is marked to be searched.
    CheckpointError
        A checkpoint is bad, or the checkpoints do not fit together.
    MemoryLimitError, DiskSpaceError
        A candidate does not fit into memory, or the candidates do not fit onto the disk.
    OutputError
        The output folder is refused because files would be lost, or the output cannot be written.
    EvaluationError
        All candidates of the first generation failed.
    UnsupportedError
        An optional dependency is missing.
    InterruptedMergeError
        The search was interrupted and can be continued.

    Examples
    --------
    >>> models = [{"model": name, "parameters": {"weight": {"search": [0.0, 1.0]}}} for name in ("math", "code")]
    >>> marked = {"merge_method": "task_arithmetic", "base_model": "base", "models": models}
    >>> def score(tensors):  # the nearer its mean square to 1, the better
    ...     return -sum(abs(float((each.astype("float64") ** 2).mean()) - 1.0) for each in tensors.values())
    >>> found = search(marked, score, "searched", SearchOptions(budget=8, given="arrays"))
    >>> list(found.values), found.evaluated
    (['weight[math]', 'weight[code]'], 8)
    >>> found.recipe.name, found.model.name
    ('recipe.yml', 'model')

    """
    run = run or RunOptions()
    refuse_part(run, "a search")
    request = Request(
        read_template(read_origin(recipe)),
        evaluate,
        expand_home(output),
        search_options or SearchOptions(),
        options or PlanOptions(),
        run,
        listen,
    )
    return request.carry_out()
