"""The commands that merge checkpoints as a recipe says, and that say what such a merge would do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dovetail.engine.cli.options import (
    DEFAULT_FORMAT,
    CodecOption,
    DebugOption,
    DtypeOption,
    ExecutorOption,
    FormatOption,
    JsonOption,
    MemoryOption,
    NoCardOption,
    NonFiniteOption,
    NoTokenizerOption,
    OnNonFinite,
    PartialOption,
    PartOption,
    PicturesOption,
    RecipeArgument,
    RoundOption,
    SeedOption,
    ShardOption,
    StagesOption,
    StrictOption,
    ValuesCodecOption,
    WorkersOption,
    ZarrShardOption,
    begin_work,
    plan_options,
    recipe_source,
    run_options,
)
from dovetail.engine.cli.parser import tell
from dovetail.io.files.collector import collector_paused
from dovetail.io.zarr.vectors import VALUES_CODEC


def merge(
    ctx: typer.Context,
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", readable=False)],
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    format: FormatOption = DEFAULT_FORMAT,
    shard_size: ShardOption = None,
    codec: CodecOption = None,
    zarr_shards: ZarrShardOption = None,
    dtype: DtypeOption = None,
    seed: SeedOption = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is not empty.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished merge into OUT away.")] = False,
    part: PartOption = None,
    executor: ExecutorOption = None,
    nonfinite: NonFiniteOption = OnNonFinite.error,
    strict: StrictOption = False,
    allow_partial: PartialOption = False,
    round_float32: RoundOption = False,
    stages: StagesOption = None,
    no_tokenizer: NoTokenizerOption = False,
    no_card: NoCardOption = False,
    card_pictures: PicturesOption = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Also write a web page that shows what the merge did."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Merge checkpoints as RECIPE says; the same command again continues an interrupted merge."""
    with collector_paused():
        from dovetail.engine.cli.launching import find_launch

        launch = find_launch(part, executor)  # first of all: other processes may have to get ready too
        from dovetail.engine.actions.merge import merge as run_merge
        from dovetail.engine.cli.report.display import Recorder

    begin_work()
    page = None if report is None else _page_place(report, overwrite=overwrite)
    with launch.display(quiet=quiet, as_json=as_json) as display:
        recorder = Recorder(display)
        tell(ctx, recorder)
        options = plan_options(
            shard_size,
            dtype,
            seed,
            nonfinite,
            format,
            codec,
            zarr_shards,
            strict=strict,
            allow_partial=allow_partial,
            round_float32=round_float32,
            copy_tokenizer=not no_tokenizer,
            model_card=not no_card,
            card_pictures=card_pictures,
        )
        run = launch.run_options(run_options(memory, workers, overwrite, restart, part, executor))
        listen = launch.listener(recorder, output)
        manifest = run_merge(recipe_source(recipe), output, options, run, listen, stages)
    if not recorder.done:
        return  # other parts are left
    done = recorder.done[-1]
    if not quiet and not as_json and not done.already:
        from dovetail.engine.cli.report.tables import print_summary  # in the end, so that no task waits for it

        print_summary(manifest, done)
    if page is not None:
        from dovetail.engine.cli.report.page.kinds import page_of
        from dovetail.engine.cli.report.page.render import tell_page, write_page

        tell_page(page, write_page(page_of(Path(done.output), done), page), quiet=quiet, as_json=as_json)


def _page_place(report: Path, *, overwrite: bool) -> Path:
    """Give the place of the page that is asked for; raises as `check_place` does."""
    from dovetail.engine.cli.report.page.render import check_place
    from dovetail.io.files.home import expand_home

    return check_place(Path(expand_home(report)), "--report", overwrite=overwrite)


def plan(
    ctx: typer.Context,
    recipe: RecipeArgument,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    format: FormatOption = DEFAULT_FORMAT,
    shard_size: ShardOption = None,
    codec: CodecOption = None,
    zarr_shards: ZarrShardOption = None,
    dtype: DtypeOption = None,
    seed: SeedOption = 0,
    strict: StrictOption = False,
    allow_partial: PartialOption = False,
    round_float32: RoundOption = False,
    stages: StagesOption = None,
    no_tokenizer: NoTokenizerOption = False,
    no_card: NoCardOption = False,
    card_pictures: PicturesOption = False,
    executor: ExecutorOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what a merge would read, write and hold in memory; no tensor is read."""
    with collector_paused():
        from dovetail.engine.actions.forecasts import plan_stages, prepare_stages
        from dovetail.engine.cli.report.display import NoticeDisplay
        from dovetail.engine.cli.report.tables import print_stages, stages_json

    display, nonfinite = NoticeDisplay(), OnNonFinite.error
    tell(ctx, display)
    options = plan_options(
        shard_size,
        dtype,
        seed,
        nonfinite,
        format,
        codec,
        zarr_shards,
        strict=strict,
        allow_partial=allow_partial,
        round_float32=round_float32,
        copy_tokenizer=not no_tokenizer,
        model_card=not no_card,
        card_pictures=card_pictures,
    )
    forecasts = plan_stages(recipe_source(recipe), options, stages)
    run = run_options(memory, workers, overwrite=False, restart=False)
    budgets = prepare_stages(forecasts, run, display)
    crew = None
    if executor is not None:
        from dovetail.engine.actions.hand_out import survey

        crew = survey(replace(run, executor=executor), display)
    if as_json:
        found = stages_json(forecasts, budgets)
        print(json.dumps(found if crew is None else {**found, "cluster": crew.to_json()}, indent=1))
    else:
        print_stages(forecasts, budgets)
        if crew is not None:
            print(f"made by {crew}")


def vectors(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Argument(metavar="STORE", help="Folder to make.", readable=False)],
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    codec: ValuesCodecOption = None,
    seed: SeedOption = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace STORE if it is not empty.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished STORE away.")] = False,
    part: PartOption = None,
    executor: ExecutorOption = None,
    strict: StrictOption = False,
    allow_partial: PartialOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Store what each model of RECIPE keeps, so that it can be merged by other weights without the models.

    A merge by the same recipe with a line 'vectors: STORE' gives the same bits as from the models, and reads only the
    base model and STORE. Weights, lambda and dtype may then be others; what decides which changes are kept may not. The
    same command again continues an interrupted one.
    """
    from dovetail.engine.cli.launching import find_launch

    launch = find_launch(part, executor)
    from dovetail.engine.actions.vectors import make_vectors
    from dovetail.engine.cli.report.display import Recorder
    from dovetail.engine.cli.report.tables import print_store
    from dovetail.engine.planning.plan import PlanOptions

    begin_work()
    with launch.display(quiet=quiet, as_json=as_json, label="storing") as display:
        recorder = Recorder(display)
        options = PlanOptions(seed=seed, strict=strict, allow_partial=allow_partial)
        run = launch.run_options(run_options(memory, workers, overwrite, restart, part, executor))
        listen = launch.listener(recorder, output)
        manifest = make_vectors(recipe_source(recipe), output, options, run, listen, codec or VALUES_CODEC)
    if recorder.done and not quiet and not as_json and not recorder.done[-1].already:
        print_store(manifest, recorder.done[-1])
