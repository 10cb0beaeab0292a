"""The command ``dovetail``. Large modules are imported only by the commands that need them, so that help is quick."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dovetail.engine.cli_models import extract_lora, moe
from dovetail.engine.cli_options import (
    DEFAULT_FORMAT,
    CodecOption,
    DebugOption,
    DtypeOption,
    FormatOption,
    JsonOption,
    MemoryOption,
    NonFiniteOption,
    OnNonFinite,
    PartialOption,
    RecipeArgument,
    RoundOption,
    SeedOption,
    ShardOption,
    StagesOption,
    StrictOption,
    WorkersOption,
    ZarrShardOption,
    interrupt,
    plan_options,
    run_options,
)

app = typer.Typer(
    name="dovetail",
    help="Merge model checkpoints that are bigger than your memory: exact, bounded, resumable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# Some versions of Typer contain a copy of click, and others use the installed click: each has another class.
_UsageError: Any = typer.BadParameter.__base__


def _show_version(value: bool) -> None:
    if value:
        import importlib.metadata

        print(f"dovetail {importlib.metadata.version('dovetail')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Merge model checkpoints that are bigger than your memory: exact, bounded, resumable."""


@app.command(short_help="Merge checkpoints as a recipe says.")
def merge(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
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
    nonfinite: NonFiniteOption = OnNonFinite.error,
    strict: StrictOption = False,
    allow_partial: PartialOption = False,
    round_float32: RoundOption = False,
    stages: StagesOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Merge checkpoints as RECIPE says; the same command again continues an interrupted merge."""
    from dovetail.engine.actions.merge import merge as run_merge
    from dovetail.engine.report.display import Recorder, choose_display
    from dovetail.engine.report.tables import print_summary

    signal.signal(signal.SIGTERM, interrupt)
    with choose_display(quiet=quiet, as_json=as_json) as display:
        recorder = Recorder(display)
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
        )
        run = run_options(memory, workers, overwrite, restart)
        manifest = run_merge(recipe, output, options, run, recorder, stages)
    if not quiet and not as_json:
        print_summary(manifest, recorder.done[-1])


@app.command(short_help="Convert checkpoints to another format or dtype.")
def convert(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC... DST",
            help="Checkpoints, then the folder to make; each of several checkpoints gets a folder inside it.",
            show_default=False,
        ),
    ],
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    format: FormatOption = DEFAULT_FORMAT,
    shard_size: ShardOption = None,
    codec: CodecOption = None,
    zarr_shards: ZarrShardOption = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Dtype of floating-point tensors. [default: each keeps its own]"),
    ] = None,
    round_float32: RoundOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is not empty.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw unfinished conversions away.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Convert checkpoints to another format, dtype or number of shards, byte for byte where the dtype stays.

    The same command again continues an interrupted conversion, and leaves complete outputs alone.
    """
    from dovetail.engine.actions.convert import convert_all
    from dovetail.engine.report.display import Recorder, choose_display
    from dovetail.engine.report.tables import print_conversion

    if len(paths) < 2:
        raise typer.BadParameter("give at least one checkpoint and the folder to make", param_hint="SRC... DST")
    signal.signal(signal.SIGTERM, interrupt)
    recorder = Recorder(choose_display(quiet=quiet, as_json=as_json, label="converting"))
    try:
        with recorder.display:
            options = plan_options(
                shard_size, dtype, 0, OnNonFinite.keep, format, codec, zarr_shards, round_float32=round_float32
            )
            convert_all(paths[:-1], paths[-1], options, run_options(memory, workers, overwrite, restart), recorder)
    finally:
        for done in [] if quiet or as_json else recorder.done:
            print_conversion(done)


app.command("extract-lora", short_help="Write what a fine-tune changed as an adapter.")(extract_lora)


app.command("moe", short_help="Make dense models the experts of one model.")(moe)


@app.command(short_help="Say what a merge would read, write and hold.")
def plan(
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
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what a merge would read, write and hold in memory; no tensor is read."""
    from dovetail.engine.actions.forecasts import plan_stages, prepare_stages
    from dovetail.engine.report.display import NoticeDisplay
    from dovetail.engine.report.tables import print_stages, stages_json

    nonfinite = OnNonFinite.error
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
    )
    forecasts = plan_stages(recipe, options, stages)
    run = run_options(memory, workers, overwrite=False, restart=False)
    budgets = prepare_stages(forecasts, run, NoticeDisplay())
    if as_json:
        print(json.dumps(stages_json(forecasts, budgets), indent=1))
    else:
        print_stages(forecasts, budgets)


@app.command(short_help="List a checkpoint's tensors.")
def inspect(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A folder, a file, or an address.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List a checkpoint's tensors, shapes, dtypes and sizes."""
    from dovetail.engine.report.tables import checkpoint_json, print_checkpoint
    from dovetail.io.opening import read_checkpoint

    opened = read_checkpoint(checkpoint)
    if as_json:
        print(json.dumps(checkpoint_json(opened), indent=1))
    else:
        print_checkpoint(opened)


@app.command(short_help="Check every byte of an output.")
def verify(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that dovetail merge has written.")],
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
    from dovetail.engine.report.display import choose_display
    from dovetail.engine.report.tables import conclude_verification, verdict_json

    run = run_options(memory, workers, overwrite=False, restart=False)
    with choose_display(quiet=quiet, as_json=as_json, label="verifying") as display:
        verdict = run_verify(output, display)
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


@app.command(short_help="Say how far two checkpoints lie apart.")
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
    from dovetail.engine.actions.compare import Limits
    from dovetail.engine.actions.compare import compare as run_compare
    from dovetail.engine.report.comparison import comparison_json, conclude_comparison, print_comparison
    from dovetail.engine.report.display import choose_display

    limits = Limits(max_abs, max_rel, max_ulp)
    with choose_display(quiet=quiet, as_json=as_json, label="comparing") as display:
        found = run_compare(first, second, run_options(memory, workers, overwrite=False, restart=False), display)
    if as_json:
        for line in comparison_json(found, limits):
            print(json.dumps(line))
    elif not quiet:
        print_comparison(found, None if everything else top)
    conclude_comparison((first, second), found, limits)


@app.command(short_help="Show the methods and their parameters.")
def methods(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show the table of methods: parameters, defaults, papers."""
    from dovetail.engine.methods.plugins import UPDATE
    from dovetail.engine.methods.registry import all_methods, plug_ins
    from dovetail.engine.report.tables import methods_json, print_methods

    if as_json:
        print(json.dumps(methods_json(all_methods()), indent=1))
    else:
        print_methods(all_methods())
    for fault in plug_ins().faults:
        print(f"warning: {fault}; {UPDATE}", file=sys.stderr)


@app.command(short_help="Merge small made-up checkpoints and explain.")
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put it.")] = Path("dovetail-demo"),
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Limit on the merging process.")] = "512MiB",
    debug: DebugOption = False,
) -> None:
    """Make small checkpoints, merge them by CABS, check the result and explain it."""
    from dovetail.engine.demo import run_demo
    from dovetail.engine.text import parse_size

    run_demo(folder, parse_size(memory))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit; ``dovetail.io.errors`` and ``dovetail.engine.errors`` list the exit codes."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names with letters that the terminal's encoding lacks
    try:
        # Typer swallows Ctrl-C: some versions return this code, others raise Abort.
        interrupted = app(arguments, standalone_mode=False) == 130
    except (KeyboardInterrupt, typer.Abort):
        interrupted = True
    except _UsageError as error:
        error.show()
        _fail(error.format_message(), error.exit_code, arguments, shown=True)
    except Exception as error:
        from dovetail.engine.errors import describe

        _fail(*describe(error), arguments)
    if interrupted:
        _fail("interrupted; run the same command again to continue", 130, arguments)
    sys.exit(0)


def _fail(text: str, code: int, arguments: Sequence[str], *, shown: bool = False) -> NoReturn:
    """Print an error to stderr for people, and with ``--json`` to stdout for programs, and exit with its code.

    The arguments are searched for ``--debug`` and ``--json`` as they stand, because parsing them may have failed.
    """
    if code == 130:  # the request to stop is being followed: further ones must not disturb that
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if "--debug" in arguments and sys.exc_info()[0]:
        traceback.print_exc()
    if not shown:
        print(f"error: {text}", file=sys.stderr)
    if "--json" in arguments:
        with contextlib.suppress(OSError):  # the error may be that nothing can be written to stdout
            print(json.dumps({"event": "error", "text": text, "exit_code": code}), flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
