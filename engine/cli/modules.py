"""The commands that take modules out of modular networks, put them together, and show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dovetail.engine.cli.options import (
    DebugOption,
    JsonOption,
    MemoryOption,
    WorkersOption,
    begin_work,
    run_options,
)

_MASKS = ("generators", "folded", "hard")

ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAME,...",
        help="Classes to keep, in the order that their logits are to have. [default: all]",
    ),
]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", show_default=False)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is not empty.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Throw unfinished work on OUT away.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")]


def extract(
    network: Annotated[
        str,
        typer.Argument(metavar="NETWORK", help="A folder that 'dovetail modules train' has made.", show_default=False),
    ],
    output: OutArgument,
    classes: ClassesOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of a class's images that must use a kernel. [default: NETWORK's]"),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar=f"<{'|'.join(_MASKS)}>",
            help="What becomes of soft masks: their generators are kept, or their means folded into the weights, or "
            "neither. [default: generators if NETWORK has them, else hard]",
            autocompletion=lambda: list(_MASKS),
        ),
    ] = None,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    restart: RestartOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Take what some classes need out of NETWORK, as a smaller network.

    OUT gets the weights and modules.json, which says which rows and columns of which tensor they are. Python loads it
    by dovetail.engine.modular.load_module. The same command again continues what was interrupted. Needs no torch.
    """
    from dovetail.engine.modular.extraction.extract import extract_module

    chosen, run = _names(classes), run_options(memory, workers, overwrite, restart)

    def work(recorder: Any) -> None:
        extract_module(network, output, chosen, threshold=threshold, masks=masks, run=run, listen=recorder)

    _write(work, output, "extracting", quiet=quiet, as_json=as_json)


def compose(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="MODULE... OUT", help="Modules, then the folder to make.", show_default=False),
    ],
    classes: ClassesOption = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="Where a network is that modules were taken out of, if it has moved. Can be repeated.",
        ),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            metavar="X,...", help="For modules of different networks: what the logits of each are divided by."
        ),
    ] = None,
    bias: Annotated[
        str | None, typer.Option(metavar="X,...", help="Likewise, what is added to them after that.")
    ] = None,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    restart: RestartOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Put modules together into one network that tells all of their classes apart.

    Modules of one network give just what extracting all of their classes from it gives, so that it must still be there.
    Modules of different networks become branches of one, with their logits side by side.
    """
    from dovetail.engine.modular.extraction.compose import compose_modules

    if len(paths) < 2:
        raise typer.BadParameter("give at least one module and the folder to make", param_hint="MODULE... OUT")
    output, chosen = Path(paths[-1]), _names(classes)
    run, calibrations = run_options(memory, workers, overwrite, restart), _calibrations(temperature, bias)

    def work(recorder: Any) -> None:
        compose_modules(
            paths[:-1], output, chosen, parents=parent or (), calibrations=calibrations, run=run, listen=recorder
        )

    _write(work, output, "composing", quiet=quiet, as_json=as_json)


def inspect(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A module, or a modular network.", show_default=False)
    ],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the classes of a module or of a modular network, and the kernels of its layers."""
    from dovetail.engine.cli.report.modules import module_json, parent_json, print_module, print_parent
    from dovetail.engine.modular.extraction.document import MODULE_NAME, read_module
    from dovetail.engine.modular.network.parent import PARENT_NAME, read_parent
    from dovetail.io.errors import MissingFileError
    from dovetail.io.files.home import expand_home
    from dovetail.io.files.smallfile import is_named

    place = Path(expand_home(folder))
    if is_named(place / MODULE_NAME):
        module = read_module(place)
        print(json.dumps(module_json(module), indent=1)) if as_json else print_module(module)
    elif is_named(place / PARENT_NAME):
        network = read_parent(place)
        print(json.dumps(parent_json(network), indent=1)) if as_json else print_parent(network)
    else:
        raise MissingFileError(
            f"{folder} has neither {MODULE_NAME} nor {PARENT_NAME}", "a module or a modular network", "check the path"
        )


def _write(work: Any, output: Path, label: str, *, quiet: bool, as_json: bool) -> None:
    """Write a module, and say what it is."""
    from dovetail.engine.cli.report.display import Recorder, choose_display
    from dovetail.engine.cli.report.modules import module_json, print_written
    from dovetail.io.files.home import expand_home

    begin_work()
    with choose_display(quiet=quiet, as_json=as_json, label=label) as display:
        recorder = Recorder(display)
        work(recorder)
    place = Path(expand_home(output))
    if as_json:
        from dovetail.engine.modular.extraction.document import read_module

        print(json.dumps({"event": "module", **module_json(read_module(place))}))
    elif not quiet:
        print_written(place, recorder.done[-1] if recorder.done else None)


def _names(classes: str | None) -> list[str] | None:
    return None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]


def _calibrations(temperature: str | None, bias: str | None) -> Any:
    """Read temperatures and biases, one for each network; None if neither is given."""
    from dovetail.engine.errors import RecipeError
    from dovetail.engine.modular.extraction.joining import Calibration

    if temperature is None and bias is None:
        return None
    temperatures, biases = _numbers("--temperature", temperature), _numbers("--bias", bias)
    count = max(len(temperatures), len(biases))
    temperatures, biases = temperatures or [1.0] * count, biases or [0.0] * count
    if len(temperatures) != len(biases):
        raise RecipeError(
            f"--temperature has {len(temperatures)} numbers and --bias {len(biases)}", "one of each for each network"
        )
    return [Calibration(*each) for each in zip(temperatures, biases, strict=True)]


def _numbers(option: str, text: str | None) -> list[float]:
    from dovetail.engine.errors import RecipeError

    try:
        return [] if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(f"{option} is {text!r}", "numbers with commas between them, such as 1.5,0.8") from None
