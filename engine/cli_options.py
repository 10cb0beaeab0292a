"""What the commands of ``dovetail`` share: their options, and what those mean to a plan and a run."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dovetail.engine.planning.plan import PlanOptions
    from dovetail.engine.run.prepare import RunOptions


class OnNonFinite(StrEnum):
    """What to do with NaN and infinity in an input."""

    error = "error"
    keep = "keep"


class OutputFormat(StrEnum):
    """Format of the output."""

    safetensors = "safetensors"
    zarr = "zarr"


class Codec(StrEnum):
    """Compression of Zarr output."""

    zstd = "zstd"
    blosc = "blosc"
    none = "none"


RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A mergekit YAML file.")]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Limit on the whole process. [default: half of what is free, at most 2GiB, or what the merge needs]",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Tasks at once, if memory allows. [default: one a core]"),
]
FormatOption = Annotated[OutputFormat, typer.Option("--format", help="Format of the output.")]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard-size", metavar="SIZE", help="Size of a safetensors output shard. [default: 5GB]"),
]
CodecOption = Annotated[
    Codec | None, typer.Option("--codec", help="Compression of Zarr output. [default: zstd]", show_default=False)
]
ZarrShardOption = Annotated[
    str | None,
    typer.Option(
        "--zarr-shards",
        metavar="SIZE",
        help="Store Zarr output as shards of about this size, in fewer and larger files; one task holds one shard.",
    ),
]
DtypeOption = Annotated[
    str | None, typer.Option(metavar="DTYPE", help="Output dtype, such as bfloat16. [default: the recipe's]")
]
SeedOption = Annotated[int, typer.Option(help="Seed of random masks.")]
NonFiniteOption = Annotated[OnNonFinite, typer.Option(help="What to do with NaN and infinity in an input.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse checkpoints that do not have the same tensors in the same shapes.")
]
StagesOption = Annotated[
    Path | None,
    typer.Option("--stages", metavar="DIR", help="Keep the results of a recipe's stages here. [default: remove them]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]


def plan_options(
    shard_size: str | None,
    dtype: str | None,
    seed: int,
    nonfinite: OnNonFinite,
    format: OutputFormat,
    codec: str | None,
    zarr_shards: str | None,
    *,
    strict: bool = False,
) -> PlanOptions:
    """Turn the options of a command into those of a plan; raises RecipeError where they do not go together."""
    from dovetail.engine.planning.plan import PlanOptions
    from dovetail.engine.text import parse_size
    from dovetail.io.output import choose_format

    shard_bytes = None if shard_size is None else parse_size(shard_size)
    zarr_shard_bytes = None if zarr_shards is None else parse_size(zarr_shards)
    zarr = choose_format(format.value, shard_bytes, codec, zarr_shard_bytes)
    keep = nonfinite is OnNonFinite.keep
    options = PlanOptions(dtype=dtype, seed=seed, keep_nonfinite=keep, strict=strict, zarr=zarr)
    return options if shard_bytes is None else replace(options, shard_size_bytes=shard_bytes)


def run_options(memory: str | None, workers: int | None, overwrite: bool, restart: bool) -> RunOptions:
    """Turn the options of a command into those of a run."""
    from dovetail.engine.run.prepare import RunOptions
    from dovetail.engine.text import parse_size

    return RunOptions(None if memory is None else parse_size(memory), workers, overwrite, restart)
