"""The commands that make something of models other than a merge: conversions, adapters, mixtures of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dovetail.engine.cli.options import (
    DEFAULT_FORMAT,
    CodecOption,
    DebugOption,
    DtypeOption,
    FormatOption,
    JsonOption,
    MemoryOption,
    NoCardOption,
    OnNonFinite,
    RoundOption,
    ShardOption,
    WorkersOption,
    ZarrShardOption,
    begin_work,
    dtype_names,
    plan_options,
    recipe_source,
    run_options,
)
from dovetail.engine.cli.parser import tell

PatternsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Look only at tensors or modules of such names, such as q_proj or 'model.layers.0.*'. Can be repeated.",
    ),
]


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
        typer.Option(
            metavar="DTYPE",
            help="Dtype of floating-point tensors. [default: each keeps its own]",
            autocompletion=dtype_names,
        ),
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
    from dovetail.engine.cli.report.display import Recorder, choose_display
    from dovetail.engine.cli.report.tables import print_conversion

    if len(paths) < 2:
        raise typer.BadParameter("give at least one checkpoint and the folder to make", param_hint="SRC... DST")
    begin_work()
    recorder = Recorder(choose_display(quiet=quiet, as_json=as_json, label="converting"))
    try:
        with recorder.display:
            options = plan_options(
                shard_size, dtype, 0, OnNonFinite.keep, format, codec, zarr_shards, round_float32=round_float32
            )
            convert_all(paths[:-1], paths[-1], options, run_options(memory, workers, overwrite, restart), recorder)
    finally:
        for done in [] if quiet or as_json else recorder.made:
            print_conversion(done)


def extract_lora(
    ctx: typer.Context,
    tuned: Annotated[str, typer.Argument(metavar="FINETUNED", help="A fine-tuned model.", show_default=False)],
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that it was made from.", show_default=False)],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", readable=False, show_default=False)],
    rank: Annotated[
        int | None,
        typer.Option(metavar="N", help="Greatest rank of a matrix. [default: 64, or 256 with --energy]"),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Keep this share of the energy (sum of squares) of each matrix's change, by the least rank that does.",
        ),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(metavar="X", help="lora_alpha of the adapter. [default: its rank]")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            help="Dtype of the low-rank factors. [default: the base model's]",
            autocompletion=dtype_names,
        ),
    ] = None,
    include: PatternsOption = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Do not look at these. Can be repeated.")
    ] = None,
    modules_to_save: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Keep these whole if they changed, as peft's modules_to_save."),
    ] = None,
    iterations: Annotated[
        int, typer.Option(metavar="N", help="Steps towards the best factors; each reads both models once.")
    ] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the random start.")] = 0,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is not empty.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished extraction into OUT away.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write what FINETUNED changed in BASE as a low-rank adapter that peft loads.

    Every matrix that changed becomes two thin ones; norms, biases and other tensors that changed are kept whole. The
    same command again continues an interrupted extraction with the next matrix.
    """
    from dovetail.engine.actions.extract_lora import extract_lora as run_extraction
    from dovetail.engine.cli.report.display import Recorder, choose_display
    from dovetail.engine.cli.report.extraction import print_extraction
    from dovetail.engine.planning.extraction.options import ExtractionOptions

    begin_work()
    options = ExtractionOptions(
        rank=rank,
        energy=energy,
        alpha=alpha,
        dtype=dtype,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        modules_to_save=tuple(modules_to_save or ()),
        iterations=iterations,
        seed=seed,
    )
    with choose_display(quiet=quiet, as_json=as_json, label="extracting") as display:
        recorder = Recorder(display)
        tell(ctx, recorder)
        run = run_options(memory, workers, overwrite, restart)
        manifest = run_extraction(tuned, base, output, options, run, recorder)
    if not quiet and not as_json:
        print_extraction(manifest, recorder.done[-1] if recorder.made else None)


def moe(
    ctx: typer.Context,
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="A YAML file as mergekit-moe reads it; - for standard input.", readable=False
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", readable=False, show_default=False)],
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    shard_size: ShardOption = None,
    dtype: DtypeOption = None,
    seed: Annotated[int, typer.Option(help="Seed of random routers.")] = 0,
    no_tokenizer: Annotated[
        bool, typer.Option("--no-copy-tokenizer", help="Leave the base model's tokenizer files out.")
    ] = False,
    no_card: NoCardOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is not empty.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw unfinished work on OUT away.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse keys of RECIPE without effect.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make dense models the experts of one model, as RECIPE says.

    Llama and Mistral models give a Mixtral, Qwen2 models a Qwen2-MoE with one shared expert, Qwen3 models a Qwen3-MoE.
    The same command again continues what was interrupted.
    """
    from dovetail.engine.actions.moe import make_moe
    from dovetail.engine.cli.report.display import Recorder, choose_display
    from dovetail.engine.cli.report.tables import print_conversion

    begin_work()
    with choose_display(quiet=quiet, as_json=as_json) as display:
        recorder = Recorder(display)
        tell(ctx, recorder)
        options = plan_options(
            shard_size,
            dtype,
            seed,
            OnNonFinite.keep,
            DEFAULT_FORMAT,
            None,
            None,
            strict=strict,
            copy_tokenizer=not no_tokenizer,
            model_card=not no_card,
        )
        make_moe(recipe_source(recipe), output, options, run_options(memory, workers, overwrite, restart), recorder)
    for done in [] if quiet or as_json else recorder.made:
        print_conversion(done)
