"""The command that says what models are like before they are merged. It changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dovetail.engine.cli.options import (
    DebugOption,
    JsonOption,
    MemoryOption,
    NonFiniteOption,
    OnNonFinite,
    StrictOption,
    WorkersOption,
    recipe_source,
    run_options,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dovetail.engine.recipe.load import RecipeSource


def analyze(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|MODEL...",
            help="A mergekit YAML file, or - for standard input; or models, which need --base.",
            show_default=False,
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="The model that the others were made from. [default: RECIPE's]"),
    ] = None,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Changes that n:m pruning is to keep ...")] = 64,
    m: Annotated[int, typer.Option("--m", metavar="M", help="... of so many, for the figures about it.")] = 256,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Write all figures as JSON, for dovetail report too.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a web page that shows all figures.")
    ] = None,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    nonfinite: NonFiniteOption = OnNonFinite.error,
    strict: StrictOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of another kind.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what is to be looked at.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say how models have changed their base model, how their changes conflict, and what is to be looked at.

    Every element is read, within the memory limit. Of RECIPE, only the models, their layers and the tokenizer count.
    """
    from dovetail.engine.actions.analyze import analyze as run_analysis
    from dovetail.engine.actions.saved_analysis import is_analysis, save_analysis
    from dovetail.engine.cli.report.analysis import print_analysis, print_cautions
    from dovetail.engine.cli.report.display import choose_display
    from dovetail.engine.cli.report.page.analysis_page import analysis_page
    from dovetail.engine.cli.report.page.render import check_place, tell_page, write_page
    from dovetail.engine.errors import RecipeError
    from dovetail.engine.output.single_file import check_file
    from dovetail.engine.planning.plan import PlanOptions
    from dovetail.io.files.home import expand_home

    target = None if save is None else Path(expand_home(save))
    if target is not None:
        check_file(target, "analysis", "--save", is_analysis, overwrite=overwrite)
    page = None if html is None else check_place(Path(expand_home(html)), "--html", overwrite=overwrite)
    if target is not None and target == page:
        raise RecipeError(f"--save and --html both name {target}", "two files", "name another one")
    options = PlanOptions(keep_nonfinite=nonfinite is OnNonFinite.keep, strict=strict)
    run = run_options(memory, workers, overwrite=False, restart=False)
    with choose_display(quiet=quiet, as_json=as_json, label="analysing") as display:
        found = run_analysis(_recipe(given, base), base, options, run, display, n=n, m=m)
    document = found.to_json(tensors=as_json or save is not None or html is not None)
    if quiet and not as_json:
        print_cautions(document)
    elif not as_json:
        print_analysis(document)
    if target is not None:  # after the figures have been shown, which a full disk then cannot lose
        save_analysis(document, target)
    if page is not None:
        tell_page(page, write_page(analysis_page(document), page), quiet=quiet, as_json=as_json)
    if as_json:
        print(json.dumps({"event": "analysis", **document}))


def _recipe(given: list[str], base: str | None) -> RecipeSource | Sequence[str]:
    """Tell a recipe from models: one word without a base model, or the name of a YAML file, is a recipe."""
    alone = len(given) == 1
    if alone and (base is None or given[0] == "-" or given[0].lower().endswith((".yml", ".yaml"))):
        return recipe_source(Path(given[0]))
    if base is None:
        raise typer.BadParameter(
            "several models need --base MODEL; a recipe stands alone", param_hint="RECIPE|MODEL..."
        )
    return given
