"""Counting anew: which kernels the classes of a stored network use, by other images or another threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.evaluation.figures import check_data, load_observed
from dovetail.engine.modular.network.counts import Counts, write_counts
from dovetail.engine.modular.network.parent import PARENT_NAME, Parent, parent_to_json, write_json
from dovetail.engine.modular.training.predictions import count_masks, normalisation_of
from dovetail.engine.modular.training.request import choose_device
from dovetail.io.files.home import expand_home
from dovetail.io.state_dict import load_tensors


def recount(parent: Parent, data: DataSet, threshold: float | None = None, device: str = "auto") -> Counts:
    """Count over the training images of a data set, and store counts and threshold beside the network.

    Parameters
    ----------
    parent
        The network.
    data
        A data set with the network's classes.
    threshold
        Share of samples from which on a kernel is a class's own; None to leave it as it is.
    device
        Where to compute.

    Raises
    ------
    RecipeError
        The data are not the network's, or the device cannot be used.
    OSError
        The counts cannot be written.

    """
    check_data(parent, data)
    place = choose_device(device)
    observed = load_observed(parent, load_tensors(parent.checkpoint, copy=True)).to(place)
    normalise = normalisation_of(parent.inputs, data)
    counter = count_masks(observed, data.train, len(parent.classes), normalise, place)
    counts = counter.result(soft=parent.generators)
    write_counts(parent.folder, counts)
    if threshold is not None and threshold != parent.threshold:
        document: dict[str, Any] = parent_to_json(
            parent.architecture,
            parent.classes,
            generators=parent.generators,
            threshold=threshold,
            about=parent.about,
        )
        write_json(Path(expand_home(parent.folder)) / PARENT_NAME, document)
    return counts
