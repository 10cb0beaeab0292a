"""The commands that only look: at checkpoints, at outputs, at the table of methods. They change none of these."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dovetail.engine.cli.options import (
    DebugOption,
    JsonOption,
    MemoryOption,
    WorkersOption,
    run_options,
)
from dovetail.engine.cli.report.streams import finish_output, outlast_reader


def inspect(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A folder, a file, or an address.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List a checkpoint's tensors, shapes, dtypes and sizes."""
    from dovetail.engine.cli.report.tables import checkpoint_json, print_checkpoint
    from dovetail.io.opening import read_checkpoint

    opened = read_checkpoint(checkpoint)
    if as_json:
        print(json.dumps(checkpoint_json(opened), indent=1))
    else:
        print_checkpoint(opened)


def verify(
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder that dovetail merge has written.", readable=False)
    ],
    fraction: Annotated[
        float,
        typer.Option(
            "--recompute",
            metavar="FRACTION",
            min=0.0,
            max=1.0,
            help="Also compute this share of the chunks again from the inputs, and compare bits.",
        ),
    ] = 0.0,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print damage only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check every byte of an output against its manifest, and name what is damaged."""
    from dovetail.engine.actions.recompute import recompute
    from dovetail.engine.actions.verify import verify as run_verify
    from dovetail.engine.cli.report.display import choose_display
    from dovetail.engine.cli.report.tables import conclude_verification, verdict_json

    outlast_reader()  # the exit code tells what was found

    run = run_options(memory, workers, overwrite=False, restart=False)
    with choose_display(quiet=quiet, as_json=as_json, label="verifying") as display:
        verdict = run_verify(output, display, run)
    if as_json:
        print(json.dumps(verdict_json(verdict)))
    conclude_verification(output, verdict, quiet=quiet or as_json)
    if fraction:
        with choose_display(quiet=quiet, as_json=as_json, label="recomputing") as display:
            compared_bytes = recompute(output, fraction, run, display)
        if as_json:
            print(json.dumps({"event": "recomputed", "compared_bytes": compared_bytes}))
        elif not quiet:
            print(f"{compared_bytes:,} bytes, computed again from the inputs, are the same as in {output}, bit for bit")


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A checkpoint of any format.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)],
    max_ulp: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Allow N units in the last place of the coarser dtype."),
    ] = None,
    max_abs: Annotated[float | None, typer.Option(min=0, metavar="X", help="Allow |a - b| up to X.")] = None,
    max_rel: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="Allow |a - b| / max(|a|, |b|) up to X.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, metavar="N", help="Most tensors in the table.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="List every tensor, the equal ones too.")] = False,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the verdict.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say how far two checkpoints lie apart, tensor by tensor.

    The exit code is 0 if every difference is within the limits, and 6 if not. Without limits, no value and no dtype may
    differ. A tensor that only one checkpoint has, or that has another shape in each, exceeds any limit.
    """
    from dovetail.engine.actions.compare import compare as run_compare
    from dovetail.engine.actions.comparison import Limits
    from dovetail.engine.cli.report.comparison import comparison_json, conclude_comparison, print_comparison
    from dovetail.engine.cli.report.display import choose_display

    limits = Limits(max_abs, max_rel, max_ulp)
    with choose_display(quiet=quiet, as_json=as_json, label="comparing") as display:
        found = run_compare(first, second, run_options(memory, workers, overwrite=False, restart=False), display)
    if as_json:
        for line in comparison_json(found, limits):
            print(json.dumps(line))
    elif not quiet:
        print_comparison(found, None if everything else top)
    finish_output()  # before the verdict, so that a lost reader ends the command whether or not progress was shown
    conclude_comparison((first, second), found, limits)


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="An output of dovetail merge or search, a modular network, or a file of dovetail analyze --save.",
            show_default=False,
        ),
    ],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[OTHER]", help="Another output of dovetail merge, to show both side by side."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="The page to write. [default: FOLDER-report.html, here]"),
    ] = None,
    conflicts: Annotated[
        bool,
        typer.Option(
            "--conflicts", help="Also read the inputs of a merge again, to find which changes models lost to others."
        ),
    ] = False,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE even if it is no report.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a web page that shows what a merge did, what a search tried, or what an analysis or a network has.

    The page is one file, which opens from the disk, offline, in any browser: heat maps by layer and kind of tensor,
    what every model gives, a table of all tensors to sort, filter and copy, and what is to be looked at. Of two merges,
    it shows where their recipes and their figures differ.
    """
    from dovetail.engine.cli.report.display import choose_display
    from dovetail.engine.cli.report.page.kinds import output_folder, page_of, page_of_two
    from dovetail.engine.cli.report.page.render import check_place, tell_page, write_page
    from dovetail.engine.errors import RecipeError
    from dovetail.io.files.home import expand_home

    places = [Path(expand_home(place)) for place in (folder, other) if place is not None]
    target = Path(f"{'-'.join(_title(place) for place in places)}-report.html" if html is None else expand_home(html))
    check_place(target, "--html", overwrite=overwrite)
    if not conflicts and (memory, workers) != (None, None):
        raise RecipeError(
            "--memory and --workers have no effect", "a limit for --conflicts, which reads models", "leave them out"
        )
    if conflicts:
        from dovetail.engine.actions.conflicts import conflicts as find_conflicts

        if other is not None:
            raise RecipeError("--conflicts and a second output are given", "one output", "leave one of them out")
        run = run_options(memory, workers, overwrite=False, restart=False)
        with choose_display(quiet=False, as_json=as_json, label="reading") as display:
            found = find_conflicts(output_folder(places[0]), run, display)
        page = page_of(places[0], None, found)
    else:
        page = page_of(places[0]) if other is None else page_of_two(*places)
    tell_page(target, write_page(page, target), quiet=False, as_json=as_json)


def _title(place: Path) -> str:
    """Name what is reported on; a manifest has the name of its folder, and a file no suffix."""
    from dovetail.engine.output.manifest import MANIFEST_NAME

    found = place.resolve()
    if found.suffix == ".json" and found.name != MANIFEST_NAME:
        return found.stem
    return found.parent.name if found.name == MANIFEST_NAME else found.name


def _method_names() -> list[str]:
    from dovetail.engine.methods.registry import all_methods

    return list(all_methods())


def methods(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="METHOD", help="Show only these. [default: all]", autocompletion=_method_names),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the table of methods: parameters, defaults, papers."""
    from dovetail.engine.cli.report.tables import methods_json, print_methods
    from dovetail.engine.errors import RecipeError
    from dovetail.engine.methods.plugins import UPDATE
    from dovetail.engine.methods.registry import all_methods, find, plug_ins

    try:
        shown = {name: find(name) for name in names} if names else all_methods()
    except RecipeError as error:
        raise RecipeError(
            error.what.replace("merge_method is", "there is no method"), error.expected, error.action
        ) from None
    if as_json:
        print(json.dumps(methods_json(shown), indent=1))
    else:
        print_methods(shown)
    for fault in plug_ins().faults:
        print(f"warning: {fault}; {UPDATE}", file=sys.stderr)
