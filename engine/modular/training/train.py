"""Training as a user asks for it: from a data set and the name of a network to the folder of a modular network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from dovetail.engine.errors import DovetailError
from dovetail.engine.events import Listener, Notice, ignore
from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.data.opening import open_data
from dovetail.engine.modular.network.counts import Counts, write_counts
from dovetail.engine.modular.network.parent import PARENT_NAME as PARENT_NAME
from dovetail.engine.modular.network.parent import THRESHOLD, parent_to_json, read_parent, write_json
from dovetail.engine.modular.training.loop import SAVE_SECONDS, Training
from dovetail.engine.modular.training.masks import ModularModel
from dovetail.engine.modular.training.predictions import Observed, count_masks
from dovetail.engine.modular.training.request import Request, make_observed
from dovetail.engine.modular.training.state import STATE_NAME, write_tensors
from dovetail.engine.output.staging import discard, publish, staging_path
from dovetail.engine.output.target import check_target
from dovetail.engine.run.lock import locked
from dovetail.io.files.home import expand_home
from dovetail.io.files.interrupts import held
from dovetail.io.formats.safetensors_layout import SINGLE_NAME

ABOUT: Final = "training"
"""Key of a network's ``about`` under which its training is described."""

TIMES_NAME: Final = "training_times.json"
"""File that says how long the training took, apart from the description, which is the same on every machine."""


def train(
    request: Request,
    output: Path,
    *,
    overwrite: bool = False,
    restart: bool = False,
    listen: Listener = ignore,
    save_seconds: float = SAVE_SECONDS,
) -> dict[str, Any]:
    """Train a network, count what kernels its classes use, and store both.

    Parameters
    ----------
    request
        What to train.
    output
        Folder to make.
    overwrite
        Whether a folder that is not empty may be replaced, unless it is the result of the same training.
    restart
        Whether an unfinished training is thrown away.
    listen
        Receives events.
    save_seconds
        Time between two states on the disk, within an epoch.

    Returns
    -------
    dict
        What ``modular.json`` says of the training, with ``seconds``, the time that it took, and ``already``, whether
        an earlier run had finished it.

    Raises
    ------
    DovetailError
        The request cannot be carried out; see `Training.run`, `open_data` and `make_observed`.

    """
    output, data = Path(expand_home(output)), open_data(request.data)
    identity = request.identity(data)
    if (found := _finished(output, identity)) is not None:
        listen(Notice("info", f"{output} is there already, from the same training; nothing was done"))
        return {**found, **_times(output), "already": True}
    check_target(output, [Path(request.data)] if Path(request.data).exists() else [], overwrite=overwrite)
    observed, staging = make_observed(request, data), staging_path(output)
    if restart:
        discard(staging)
    with locked(staging, listen):
        training = Training(observed, data, request.options, staging, identity)
        training.run(listen, save_seconds)
        counts = _count(training, data)
        with held():  # to finish takes less time than to stop and to continue
            about = _about(request.data, identity, training)
            times = {"seconds": training.position.seconds}
            _store(staging, training, data, about, counts)
            write_json(staging / TIMES_NAME, times)
            (staging / STATE_NAME).unlink(missing_ok=True)
            publish(staging, output, overwrite=overwrite)
    return {**about, **times, "already": False}


def _times(folder: Path) -> dict[str, Any]:
    """Read how long a finished training took; not a number if its file is gone."""
    try:
        return {"seconds": float(json.loads((folder / TIMES_NAME).read_text())["seconds"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"seconds": math.nan}


def _finished(output: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give what a finished network says of its training, if it is the one that is asked for."""
    if not (output / PARENT_NAME).is_file():
        return None
    try:
        about = read_parent(output).about.get(ABOUT)
    except DovetailError:
        return None
    return dict(about) if isinstance(about, dict) and about.get("identity") == identity else None


def _about(name: str, identity: Mapping[str, Any], training: Training) -> dict[str, Any]:
    """Describe a training that is over."""
    position = training.position
    best = max(range(len(position.history)), key=lambda epoch: position.history[epoch]["validation"])
    return {
        "data": name,
        "identity": dict(identity),
        "normalisation": {name: list(each) for name, each in asdict(training.normalise).items()},
        "history": position.history,
        "kept_epoch": len(position.history) if training.options.patience is None else best + 1,
    }


def _store(folder: Path, training: Training, data: DataSet, about: Mapping[str, Any], counts: Counts) -> None:
    """Write the network, its description and its counts."""
    observed: Observed = training.observed
    write_tensors(folder / SINGLE_NAME, observed.checkpoint_tensors())
    generators = isinstance(observed, ModularModel)
    document = parent_to_json(
        observed.architecture, data.classes, generators=generators, threshold=THRESHOLD, about={ABOUT: dict(about)}
    )
    write_json(folder / PARENT_NAME, document)
    write_counts(folder, counts)


def _count(training: Training, data: DataSet) -> Counts:
    """Count the kernels that each class uses, over the training set."""
    observed: Observed = training.observed
    counter = count_masks(observed, data.train, len(data.classes), training.normalise, training.device)
    return counter.result(soft=isinstance(observed, ModularModel))
