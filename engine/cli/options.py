"""The options that several commands of ``dovetail`` have, and the options of a plan and of a run made from them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, overload

import typer

from dovetail.engine.cli.report.streams import outlast_reader
from dovetail.io.output import FORMATS, SafetensorsFormat, choose_format
from dovetail.io.sizes import LEAST_WRITTEN_BYTES
from dovetail.io.zarr.layout import CODECS
from dovetail.io.zarr.vectors import VALUES_CODEC

if TYPE_CHECKING:
    from dovetail.engine.planning.plan import PlanOptions
    from dovetail.engine.recipe.load import RecipeSource
    from dovetail.engine.run.prepare import RunOptions


class OnNonFinite(StrEnum):
    """What to do with NaN and infinity in an input."""

    error = "error"
    keep = "keep"


def one_of_option(names: Iterable[str]) -> dict[str, Any]:
    """Make Typer's settings of an option that takes one of `names`, which may grow until the option is used."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, names))}.")
        return value

    return {"metavar": f"<{'|'.join(names)}>", "callback": check, "autocompletion": lambda: list(names)}


def dtype_names() -> list[str]:
    """Give the names of the dtypes that an output can have, for completion."""
    from dovetail.io.dtypes import DTYPES

    return [dtype.torch_name for dtype in DTYPES.values() if dtype.mergeable]


LEAST_BYTES = LEAST_WRITTEN_BYTES
"""Least size, in bytes, of anything that an option gives the size of."""

DEFAULT_FORMAT = SafetensorsFormat.name
"""Name of the output format that is used unless the user names another."""

RecipeArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A mergekit YAML file; - for standard input.", show_default=False, readable=False
    ),
]
"""Whether it is readable is found out, and told, when it is read; so it is for all other paths."""
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
FormatOption = Annotated[str, typer.Option("--format", **one_of_option(FORMATS), help="Format of the output.")]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard-size", metavar="SIZE", help="Size of a safetensors output shard. [default: 5GB]"),
]
CodecOption = Annotated[
    str | None,
    typer.Option("--codec", **one_of_option(CODECS), help=f"Compression of Zarr output. [default: {CODECS[0]}]"),
]
ValuesCodecOption = Annotated[
    str | None,
    typer.Option("--codec", **one_of_option(CODECS), help=f"Compression of the values. [default: {VALUES_CODEC}]"),
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
    str | None,
    typer.Option(
        metavar="DTYPE", help="Output dtype, such as bfloat16. [default: the recipe's]", autocompletion=dtype_names
    ),
]
RoundOption = Annotated[
    bool,
    typer.Option("--round-float32", help="Round also what all models keep in float32 among tensors of fewer bits."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of random masks.")]
NonFiniteOption = Annotated[OnNonFinite, typer.Option(help="What to do with NaN and infinity in an input.")]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Refuse keys without effect, and models with other tensors or in other shapes."),
]
PartialOption = Annotated[
    bool,
    typer.Option("--allow-partial", help="Merge what fits of models that give less than half of their elements."),
]
StagesOption = Annotated[
    Path | None,
    typer.Option(
        "--stages",
        metavar="DIR",
        help="Keep the results of a recipe's stages here. [default: remove them]",
        readable=False,
    ),
]
NoTokenizerOption = Annotated[
    bool,
    typer.Option(
        "--no-copy-tokenizer",
        help="Leave the tokenizer's files out, unless the recipe asks for a tokenizer.",
    ),
]
NoCardOption = Annotated[bool, typer.Option("--no-write-model-card", help="Write no README.md.")]
PicturesOption = Annotated[
    bool,
    typer.Option("--card-pictures", help="Show in README.md what the merge did, as two pictures (SVG) beside it."),
]
PartOption = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        help="Make one of N parts, on any machine; the last one publishes. 'auto' asks SLURM or MPI for I and N.",
    ),
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="ADDRESS",
        help="Let a Dask cluster make it in parts: dask://HOST:PORT or tls://HOST:PORT; or a pool of MPI: mpi.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]


def plan_options(
    shard_size: str | None,
    dtype: str | None,
    seed: int,
    nonfinite: OnNonFinite,
    format: str,
    codec: str | None,
    zarr_shards: str | None,
    *,
    strict: bool = False,
    allow_partial: bool = False,
    round_float32: bool = False,
    copy_tokenizer: bool = True,
    model_card: bool = True,
    card_pictures: bool = False,
) -> PlanOptions:
    """Turn the options of a command into those of a plan.

    Raises
    ------
    RecipeError
        A size cannot be read, or is smaller than any that makes sense, or pictures are for a card that is not wanted.
    OutputFormatError
        An option is for another output format, or its value is wrong.

    """
    from dovetail.engine.planning.plan import PlanOptions

    given = {
        "--shard-size": size_bytes("--shard-size", shard_size),
        "--codec": codec,
        "--zarr-shards": size_bytes("--zarr-shards", zarr_shards),
    }
    output, keep = choose_format(format, given), nonfinite is OnNonFinite.keep
    return PlanOptions(
        output,
        dtype=dtype,
        round_float32=round_float32,
        seed=seed,
        keep_nonfinite=keep,
        strict=strict,
        allow_partial=allow_partial,
        copy_tokenizer=copy_tokenizer,
        model_card=model_card,
        card_pictures=card_pictures,
    )


def run_options(
    memory: str | None,
    workers: int | None,
    overwrite: bool,
    restart: bool,
    part: str | None = None,
    executor: str | None = None,
) -> RunOptions:
    """Turn the options of a command into those of a run.

    Raises
    ------
    RecipeError
        A size cannot be read or is too small, a number is not positive, or the part or the executor is none.

    """
    from dovetail.engine.run.prepare import RunOptions

    return RunOptions(size_bytes("--memory", memory), workers, overwrite, restart, executor, part)


@overload
def size_bytes(option: str, text: str) -> int: ...
@overload
def size_bytes(option: str, text: None) -> None: ...
@overload
def size_bytes(option: str, text: str | None) -> int | None: ...
def size_bytes(option: str, text: str | None) -> int | None:
    """Read the size that an option gives, and refuse those that can only be slips, such as 5B for 5GB; None for None.

    Raises
    ------
    RecipeError
        The size cannot be read, or is smaller than `LEAST_BYTES`.

    """
    from dovetail.engine.errors import RecipeError
    from dovetail.engine.text import counted, parse_size

    if text is None:
        return None
    found = parse_size(text)
    if found < LEAST_BYTES:
        raise RecipeError(
            f"{option} {text} is {counted(found, 'byte')}",
            "at least 1 MiB",
            "write the unit, as in 512MiB or 5GB: B, or no unit at all, means single bytes",
        )
    return found


def recipe_source(recipe: Path) -> RecipeSource:
    """Give what the user names as the recipe; raises a RecipeError if that is standard input and holds no text."""
    from dovetail.engine.recipe.load import read_standard_input

    return read_standard_input() if str(recipe) == "-" else recipe


def begin_work() -> None:
    """Let the command that makes something go on without its reader."""
    outlast_reader()
