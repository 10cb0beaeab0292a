"""The commands that train modular networks, count what their classes use, and say how good they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dovetail.engine.cli.options import DebugOption, JsonOption, begin_work

_METHODS = ("mwt", "moda", "nemo", "standard")
_NETWORKS = ("tiny", "simcnn", "vgg", "resnet", "mobilenet", "inception")

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="shapes, fashion-mnist, or a path: IDX files, CIFAR-10, folders of images by class, or an .npz file.",
        show_default=False,
        autocompletion=lambda: ["shapes", "fashion-mnist"],
    ),
]
NetworkArgument = Annotated[
    Path, typer.Argument(metavar="NETWORK", help="A folder that 'dovetail modules train' has made.", show_default=False)
]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="The data set. [default: the one it was trained on]")
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold", metavar="SHARE", help="Share of a class's images that must use a kernel. [default: NETWORK's]"
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, or auto for a GPU if there is one.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="Threads of torch. [default: one a core]")
]


def train(
    data: DataArgument,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", show_default=False)],
    network: Annotated[
        str,
        typer.Option(
            metavar=f"<{'|'.join(_NETWORKS)}|MODULE:FUNCTION>",
            help="The network. MODULE:FUNCTION is your own code, and is run.",
            autocompletion=lambda: list(_NETWORKS),
        ),
    ] = "simcnn",
    width: Annotated[float, typer.Option(metavar="FACTOR", help="Factor on the kernels of a named network.")] = 1.0,
    method: Annotated[
        str,
        typer.Option(
            metavar=f"<{'|'.join(_METHODS)}>",
            help="How it becomes modular; standard for not at all.",
            autocompletion=lambda: list(_METHODS),
        ),
    ] = "mwt",
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="TERM=X", help="Weight of a term of the method, as in coupling=1.9. Can be repeated."),
    ] = None,
    temperature: Annotated[float, typer.Option(metavar="X", help="Temperature of nemo's contrastive term.")] = 0.2,
    epochs: Annotated[int, typer.Option(metavar="N", help="How often every training image is seen.")] = 200,
    batch: Annotated[int, typer.Option(metavar="N", help="Images of a batch.")] = 128,
    optimizer: Annotated[
        str, typer.Option(metavar="<sgd|adamw>", help="SGD with Nesterov's momentum, or AdamW.")
    ] = "sgd",
    rate: Annotated[
        float | None,
        typer.Option(metavar="X", help="Learning rate at the start of a cosine. [default: 0.05, 0.001 for adamw]"),
    ] = None,
    decay: Annotated[float, typer.Option(metavar="X", help="Weight decay.")] = 0.0,
    crop: Annotated[
        int | None,
        typer.Option(metavar="N", help="Pixels by which training images are moved. [default: an eighth of their size]"),
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the training images.")] = False,
    patience: Annotated[
        int | None,
        typer.Option(metavar="N", help="Stop after N epochs without progress in validation, and take the best epoch."),
    ] = None,
    mixed: Annotated[
        bool,
        typer.Option("--mixed", help="Compute matrix products in bfloat16, for hardware that has it."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights, order, changes of images, and dropout.")] = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is not empty.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished training into OUT away.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a network to be modular on DATA, and count what kernels each class uses.

    OUT gets the weights, their description and the counts, from which 'dovetail modules extract' takes modules. The
    same command again continues an interrupted training; on one thread, the result is the same bit by bit. The test
    set is not looked at: early stopping goes by the validation set, or else by every tenth training image.
    """
    _require_torch(threads)
    from dovetail.engine.cli.report.display import choose_display
    from dovetail.engine.cli.report.training import print_training
    from dovetail.engine.modular.training.options import TrainingOptions
    from dovetail.engine.modular.training.request import Request
    from dovetail.engine.modular.training.train import train as run_training

    begin_work()
    options = TrainingOptions(
        method=method,
        epochs=epochs,
        batch=batch,
        optimizer=optimizer,
        rate=rate,
        decay=decay,
        weights=_weights(weight or []),
        temperature=temperature,
        crop=crop,
        flip=flip,
        patience=patience,
        mixed=mixed,
        seed=seed,
    )
    request = Request(data, network, width, options, device)
    with choose_display(quiet=quiet, as_json=as_json, label="training") as display:
        about = run_training(request, output, overwrite=overwrite, restart=restart, listen=display)
    if as_json:
        print(json.dumps({"event": "network", "output": str(output), **about}))
    elif not quiet and not about["already"]:
        print_training(output, about)


def count(
    network: NetworkArgument,
    data: DataOption = None,
    threshold: ThresholdOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Count anew what kernels the classes of NETWORK use, over the training images of DATA.

    'dovetail modules train' has counted already. Count again for other images, or to store another threshold. Counts
    and threshold in NETWORK are replaced.
    """
    _require_torch(threads)
    from dovetail.engine.cli.report.training import counts_json, print_counts
    from dovetail.engine.modular.data.opening import open_data
    from dovetail.engine.modular.evaluation.recount import recount
    from dovetail.engine.modular.network.parent import read_parent

    begin_work()
    parent = read_parent(network)
    counts = recount(parent, open_data(_data_of(parent, data)), threshold, device)
    share = parent.threshold if threshold is None else threshold
    if as_json:
        print(json.dumps(counts_json(parent, counts, share)))
    elif not quiet:
        print_counts(parent, counts, share)


def evaluate(
    network: NetworkArgument,
    data: DataOption = None,
    threshold: ThresholdOption = None,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="<generators|folded|hard>",
            help="What becomes of soft masks in modules. [default: generators where there are some]",
        ),
    ] = None,
    compose: Annotated[
        str, typer.Option(metavar="N,...", help="Numbers of classes whose modules are put together.")
    ] = "2,3,5,10",
    fine_tune: Annotated[
        int, typer.Option("--fine-tune", min=0, metavar="N", help="Also train composed modules for N epochs.")
    ] = 0,
    fit: Annotated[
        bool,
        typer.Option("--calibrate", help="Also fit temperatures and biases of branches, on the validation set."),
    ] = False,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Measure no times.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the fine-tuning.")] = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say how good NETWORK and its modules are, or how good a module is, on the test images of DATA.

    Shown are the accuracy of the network; for each class what its module keeps and costs, and how it tells the class
    from the rest; and for composed modules their accuracy beside that of the whole network among the same classes.
    NETWORK can also be a module, which is tried on the images of its classes. For a module that is composed of modules
    of several networks, --calibrate says how to compose it again so that its branches fit each other.
    """
    _require_torch(threads)
    from dovetail.engine.cli.report.display import NoticeDisplay
    from dovetail.engine.cli.report.training import print_figures
    from dovetail.engine.modular.data.opening import open_data
    from dovetail.engine.modular.evaluation.judging import Judging, class_range, judge
    from dovetail.engine.modular.extraction.document import MODULE_NAME
    from dovetail.engine.modular.network.parent import read_parent
    from dovetail.engine.modular.training.request import choose_device
    from dovetail.io.files.home import expand_home
    from dovetail.io.files.smallfile import is_named

    if is_named(expand_home(network) / MODULE_NAME):
        _evaluate_module(network, data, device, latency=not no_latency, fit=fit, as_json=as_json)
        return
    parent = read_parent(network)
    judging = Judging(threshold, masks, class_range(compose), fine_tune, seed, not no_latency)
    found = judge(parent, open_data(_data_of(parent, data)), judging, choose_device(device), NoticeDisplay())
    if as_json:
        print(json.dumps(found))
    else:
        print_figures(found)


def _evaluate_module(folder: Path, data: str | None, device: str, *, latency: bool, fit: bool, as_json: bool) -> None:
    """Say how good a module is."""
    from dovetail.engine.cli.report.training import print_module
    from dovetail.engine.errors import RecipeError
    from dovetail.engine.modular.data.opening import open_data
    from dovetail.engine.modular.evaluation.judging_modules import judge_module
    from dovetail.engine.modular.extraction.document import read_module
    from dovetail.engine.modular.training.request import choose_device

    module = read_module(folder)
    if data is None:
        raise RecipeError(
            f"{folder} is a module, which does not say what to try it on", "a data set", "name one by --data"
        )
    found = judge_module(module, open_data(data), choose_device(device), latency=latency, fit=fit)
    if as_json:
        print(json.dumps(found))
    else:
        print_module(found)


def _require_torch(threads: int | None) -> None:
    from dovetail.io.extras import require

    require("torch", "modular", "networks")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _weights(given: list[str]) -> dict[str, float]:
    """Read weights of terms; raises a RecipeError for what is none."""
    from dovetail.engine.errors import RecipeError

    found = {}
    for each in given:
        name, sign, value = each.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            sign = ""
        if not sign:
            raise RecipeError(f"--weight {each}", "a term and a number, as in coupling=1.9", "")
    return found


def _data_of(parent: Any, given: str | None) -> str:
    """Give the data set that the user names, or else the one that a network was trained on."""
    from dovetail.engine.errors import RecipeError

    if given is not None:
        return given
    try:
        return str(parent.about["training"]["data"])
    except (KeyError, TypeError):
        raise RecipeError(
            f"{parent.folder} does not say what it was trained on", "a data set", "name one by --data"
        ) from None
