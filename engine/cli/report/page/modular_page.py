"""The page of a modular network: which class uses which kernels, and what modules share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.cli.report.page.parts import Column, Curves, Facts, HeatMap, Measure, Page, Section, Table
from dovetail.engine.text import counted, percent

if TYPE_CHECKING:
    from dovetail.engine.modular.network.counts import ClassKernels, Counts
    from dovetail.engine.modular.network.parent import Parent

MOST_CELLS: Final = 400_000
"""Cells of a heat map of classes by single kernels; of larger networks only layers are shown."""

MOST_CLASSES: Final = 400
"""Classes that are compared by pairs."""

_HIGH_RETENTION: Final = 0.8
_HIGH_COUPLING: Final = 0.8


def modular_page(parent: Parent, threshold: float | None = None) -> Page:
    """Make the page of a modular network.

    Parameters
    ----------
    parent
        The network.
    threshold
        Share of a class's images that must use a kernel; None for the network's.

    Raises
    ------
    MissingFileError
        Its kernels have not been counted.
    TensorMismatchError
        The counts are not those of this network.
    RecipeError
        A class has no images, or the threshold is no share.

    """
    from dovetail.engine.modular.evaluation.metrics import jaccard, kernel_retention
    from dovetail.engine.modular.network.counts import kernels_of, read_counts

    share = parent.threshold if threshold is None else threshold
    counts = read_counts(parent)
    found = [kernels_of(counts, number, name, share, parent.architecture) for number, name in enumerate(parent.classes)]
    layers = list(counts.counts)
    kept = np.concatenate([np.stack([each.kept[layer] for each in found]) for layer in layers], axis=1)
    alike = jaccard(kept) if len(found) <= MOST_CLASSES else None
    retention = kernel_retention([each.kept for each in found])
    coupling = None if alike is None or len(found) < 2 else float(alike[np.triu_indices(len(found), 1)].mean())
    summary = {
        "Classes": f"{len(parent.classes):,}",
        "Masked layers": f"{len(layers):,}",
        "Masked kernels": f"{kept.shape[1]:,}",
        "A module keeps": percent(retention),
        **({} if coupling is None else {"Two modules share": percent(coupling)}),
        **_accuracy(parent.about),
    }
    sections = [
        Section("Classes and kernels", _HOW_TO_READ, list(_uses(parent, counts, found, share))),
        *([] if alike is None or len(found) < 2 else [_sharing(parent.classes, alike)]),
        Section("Layers", (), [_layer_table(parent, kept, layers)]),
        Section("Modules", ("One row for the module of each class.",), [_class_table(parent, counts, found)]),
        *_training(parent),
    ]
    return Page(
        f"Modular network {parent.folder.name}", summary, list(_warnings(parent, found, retention, coupling)), sections
    )


_HOW_TO_READ: Final = (
    "A module keeps the kernels that most images of its class use. "
    "The brighter a cell is, the more images of the class use the kernel; kernels of a layer are ordered by the class "
    "that uses them most. Where classes have kernels of their own, bright steps go down from left to right; "
    "columns that are bright all over are shared by all classes.",
)


def _uses(parent: Parent, counts: Counts, found: Sequence[ClassKernels], share: float) -> Iterator[HeatMap]:
    layers, classes = list(counts.counts), list(parent.classes)
    kernels = sum(each.shape[1] for each in counts.counts.values())
    if kernels * len(classes) <= MOST_CELLS:
        used: list[NDArray[np.float64]] = []
        kept: list[NDArray[np.bool_]] = []
        names: list[str] = []
        groups: dict[str, int] = {}
        for layer in layers:
            shares = counts.counts[layer] / counts.samples[:, None]
            order = _by_class(shares)
            groups[layer] = len(names)
            names += [f"{layer}, kernel {kernel}" for kernel in order]
            used.append(shares[:, order])
            kept.append(np.stack([each.kept[layer] for each in found])[:, order])
        yield HeatMap(
            "Which class uses which kernels",
            "kernel",
            names,
            "class",
            classes,
            [
                Measure("images of the class that use the kernel", _rows(np.concatenate(used, axis=1)), True, True),
                Measure(f"kept by the class's module ({percent(share)} or more)", _rows(np.concatenate(kept, axis=1))),
            ],
            groups=groups,
        )
    widths = np.array([counts.counts[layer].shape[1] for layer in layers])
    numbers = np.array([[int(each.kept[layer].sum()) for layer in layers] for each in found])
    yield HeatMap(
        "How many kernels of each layer a module keeps",
        "layer",
        layers,
        "class",
        classes,
        [
            Measure("share of the layer's kernels", _rows(numbers / widths), True, True),
            Measure("kernels", _rows(numbers)),
        ],
    )


def _by_class(shares: NDArray[np.float64]) -> NDArray[np.intp]:
    """Order kernels by the class that uses them most, and within it from much to little."""
    return np.lexsort((-shares.max(axis=0), shares.argmax(axis=0)))


def _sharing(classes: Sequence[str], alike: NDArray[np.float64]) -> Section:
    shown = alike.copy()
    np.fill_diagonal(shown, np.nan)
    names = list(classes)
    return Section(
        "What modules share",
        (
            "Of the kernels that either of two modules keeps, the share that both keep (the Jaccard index; its mean "
            "is the coupling). Similar classes share more.",
        ),
        [
            HeatMap(
                "Kernels that two modules share",
                "class",
                names,
                "class",
                names,
                [Measure("shared", _rows(shown), True)],
            )
        ],
    )


def _layer_table(parent: Parent, kept: NDArray[np.bool_], layers: Sequence[str]) -> Table:
    widths = [parent.architecture.shapes[layer][0] for layer in layers]
    parts = np.split(kept, np.cumsum(widths)[:-1], axis=1)
    sizes = ["{} x {}".format(*parent.architecture.shapes[layer][1:]) for layer in layers]
    return Table(
        "Masked layers",
        [
            Column("layer", list(layers)),
            Column("kernels", widths),
            Column("output", sizes),
            Column("a module keeps, mean", [float(part.mean()) for part in parts], percent=True),
            Column("least", [int(part.sum(axis=1).min()) for part in parts]),
            Column("most", [int(part.sum(axis=1).max()) for part in parts]),
            Column("in every module", [int(part.all(axis=0).sum()) for part in parts]),
            Column("in one module", [int((part.sum(axis=0) == 1).sum()) for part in parts]),
            Column("in none", [int((~part.any(axis=0)).sum()) for part in parts]),
        ],
    )


def _class_table(parent: Parent, counts: Counts, found: Sequence[ClassKernels]) -> Table:
    sums = [sum(int(kept.sum()) for kept in each.kept.values()) for each in found]
    width = sum(kept.size for kept in found[0].kept.values())
    return Table(
        "Modules of one class",
        [
            Column("class", list(parent.classes)),
            Column("images counted", [int(each) for each in counts.samples]),
            Column("kernels", sums),
            Column("of all masked", [each / width for each in sums], percent=True),
            Column("lowest threshold", [min(each.thresholds.values()) for each in found], percent=True),
        ],
    )


def _warnings(parent: Parent, found: Sequence[ClassKernels], retention: float, coupling: float | None) -> Iterator[str]:
    if retention > _HIGH_RETENTION:
        yield (
            f"Modules keep {percent(retention)} of the masked kernels, so they are hardly smaller than the network: "
            "train for longer, or with a larger weight of what keeps classes apart (--weight coupling=2)."
        )
    if coupling is not None and coupling > _HIGH_COUPLING:
        yield f"Any two modules share {percent(coupling)} of their kernels: classes have hardly become separate."
    fallen = {
        layer: name
        for name, each in zip(parent.classes, found, strict=True)
        for layer, left in each.thresholds.items()
        if left <= 0
    }
    if fallen:
        layer, name = next(iter(fallen.items()))
        yield (
            f"In {counted(len(fallen), 'layer')} no image of some class uses any kernel (as of {name!r} in {layer}); "
            "its module keeps one kernel there, which is always masked."
        )


def _accuracy(about: Mapping[str, Any]) -> dict[str, str]:
    history = _history(about)
    return {"Right in validation": percent(history[-1]["validation"])} if history else {}


def _history(about: Mapping[str, Any]) -> list[dict[str, float]]:
    """Give what the training says of its epochs; nothing if another program made the network."""
    training = about.get("training")
    history = training.get("history") if isinstance(training, dict) else None
    if not isinstance(history, list) or not all(isinstance(each, dict) for each in history):
        return []
    wanted = ("loss", "right", "validation")
    return [each for each in history if all(isinstance(each.get(key), int | float) for key in wanted)]


def _training(parent: Parent) -> Iterator[Section]:
    if not (history := _history(parent.about)):
        return
    training = parent.about["training"]
    rows = {"data": str(training.get("data")), "epochs": f"{len(history):,}"}
    identity = training.get("identity")
    rows |= _options(identity if isinstance(identity, dict) else {})
    epochs = list(range(1, len(history) + 1))
    shares = {
        "training images right": [each["right"] for each in history],
        "validation images right": [each["validation"] for each in history],
    }
    yield Section(
        "Training",
        (),
        [
            Facts(rows),
            Curves("Images that are right", "epoch", epochs, "share", shares, percent=True),
            Curves("Loss of training", "epoch", epochs, "loss", {"loss": [each["loss"] for each in history]}),
        ],
    )


def _options(identity: Mapping[str, Any]) -> dict[str, str]:
    """Give what a training says of how it was done, in words and numbers."""
    found = {key: identity[key] for key in ("network", "width") if key in identity}
    options = identity.get("options")
    if isinstance(options, dict):
        found |= {key: options[key] for key in ("method", "batch", "optimizer", "rate", "seed") if key in options}
        if isinstance(weights := options.get("weights"), dict):
            found |= {f"weight of {term}": weight for term, weight in weights.items()}
    return {key: str(value) for key, value in found.items()}


def _rows(values: NDArray[Any]) -> list[list[Any]]:
    rows: list[list[Any]] = (values.astype(np.int64) if values.dtype == np.bool_ else values).tolist()
    return rows
