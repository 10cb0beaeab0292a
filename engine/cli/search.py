"""The command that searches the best values of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dovetail.engine.cli.options import (
    DEFAULT_FORMAT,
    DebugOption,
    JsonOption,
    MemoryOption,
    OnNonFinite,
    PartialOption,
    RecipeArgument,
    StrictOption,
    WorkersOption,
    begin_work,
    one_of_option,
    plan_options,
    recipe_source,
    run_options,
)

_OPTIMIZERS = ("cma", "grid", "random", "quadratic")
_OBJECTIVES = ("awa", "score", "loss")
_STARTS = ("ones", "equal", "nan")


def search(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", readable=False)],
    evaluate: Annotated[
        str,
        typer.Option(
            "--evaluate",
            metavar="COMMAND",
            help="Prints as JSON how good a candidate is: a number (more is better), or losses by task. Run by the "
            "shell, with the candidate's folder in the place of {}, or else as its last argument.",
            show_default=False,
        ),
    ],
    budget: Annotated[int, typer.Option(min=1, metavar="N", help="Most candidates to evaluate.")] = 100,
    optimizer: Annotated[str, typer.Option(**one_of_option(_OPTIMIZERS), help="How candidates are chosen.")] = "cma",
    objective: Annotated[
        str | None,
        typer.Option(
            **one_of_option(_OBJECTIVES),
            help="What counts: no task may get worse (awa), or the mean. [default: score for numbers, awa for losses]",
        ),
    ] = None,
    start: Annotated[
        str, typer.Option(**one_of_option(_STARTS), help="First weights: 1, 1/K of K models, or 1/norm of changes.")
    ] = "ones",
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Count an evaluation as failed after so long.")
    ] = None,
    evaluations: Annotated[
        int, typer.Option("--workers-of-evaluation", min=1, metavar="N", help="Candidates at once, if memory allows.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search. Random masks have the seed 0.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep all candidates, in OUT/candidates.")] = False,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is not empty.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished search into OUT away.")] = False,
    strict: StrictOption = False,
    allow_partial: PartialOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Search the values that RECIPE marks, as in 'weight: {search: [0.1, 2.0]}', for the best merge.

    Every candidate is merged and evaluated by COMMAND. OUT gets recipe.yml, which 'dovetail merge' takes, the merged
    model, and the history. The same command again continues an interrupted search, and repeats nothing that was
    evaluated.
    """
    from dovetail.engine.cli.report.search import choose_search_display, print_search
    from dovetail.engine.searching.options import SearchOptions
    from dovetail.engine.searching.search import search as run_search

    begin_work()
    how = SearchOptions(
        budget=budget,
        optimizer=optimizer,
        objective=objective,
        start=start,
        timeout_s=timeout,
        evaluations=evaluations,
        seed=seed,
        keep=keep,
    )
    options = plan_options(
        None, None, 0, OnNonFinite.error, DEFAULT_FORMAT, None, None, strict=strict, allow_partial=allow_partial
    )
    run = run_options(memory, workers, overwrite, restart)
    with choose_search_display(quiet=quiet, as_json=as_json) as display:
        found = run_search(recipe_source(recipe), evaluate, output, how, options, run, display)
    if not quiet and not as_json:
        print_search(found)
