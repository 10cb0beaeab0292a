"""The counts of a modular network: how often each class uses each kernel, and which kernels are therefore its own.

``counts.safetensors`` holds ``samples`` (int64[classes]), and for every masked layer ``counts.<layer>`` (int64[classes,
kernels]), the samples of each class with a mask above zero, and, where masks are soft, ``soft.<layer>``
(float64[classes, kernels]), the mean of the class's masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.network.architecture import Architecture, masked_layers
from dovetail.engine.modular.network.parent import Parent
from dovetail.io.checkpoint import Checkpoint, TensorInfo, cannot_read
from dovetail.io.dtypes import DTYPES, to_numpy
from dovetail.io.errors import MissingFileError, TensorMismatchError
from dovetail.io.files.durable import replace_durably
from dovetail.io.files.smallfile import is_named
from dovetail.io.formats.header import build_header
from dovetail.io.formats.index import resolve_in_folder
from dovetail.io.formats.safetensors_reader import read_file

COUNTS_NAME: Final = "counts.safetensors"
"""Name of the file."""

STEP: Final = Fraction(5, 100)
"""By how much a threshold falls where a layer would be empty (MwT, arXiv:2306.09376)."""

_SAMPLES: Final = "samples"
_COUNTS: Final = "counts."
_SOFT: Final = "soft."


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """How classes use kernels."""

    samples: NDArray[np.int64]
    """Samples of each class: int64[classes]."""
    counts: Mapping[str, NDArray[np.int64]]
    """For each masked layer the samples that use each kernel: int64[classes, kernels]."""
    soft: Mapping[str, NDArray[np.float64]]
    """For each masked layer the mean of the masks: float64[classes, kernels]; empty where masks are not soft."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassKernels:
    """The kernels of one class."""

    kept: Mapping[str, NDArray[np.bool_]]
    """For each masked layer which kernels are the class's own: bool[kernels]."""
    thresholds: Mapping[str, float]
    """For each masked layer the threshold that was left when a kernel reached it."""


def write_counts(folder: Path, counts: Counts) -> None:
    """Write the counts of a network durably into its folder.

    Raises
    ------
    OSError
        If the disk is full or fails.

    """
    tensors: dict[str, NDArray[Any]] = {_SAMPLES: counts.samples.astype(np.int64)}
    tensors |= {_COUNTS + layer: each.astype(np.int64) for layer, each in counts.counts.items()}
    tensors |= {_SOFT + layer: each.astype(np.float64) for layer, each in counts.soft.items()}
    kinds = {"i": DTYPES["I64"], "f": DTYPES["F64"]}
    header = build_header((name, kinds[each.dtype.kind], each.shape) for name, each in tensors.items())
    parts = (np.ascontiguousarray(each).tobytes() for each in tensors.values())
    replace_durably(folder / COUNTS_NAME, (header, *parts))


def open_counts(parent: Parent) -> Checkpoint:
    """Open the file of a network's counts.

    Raises
    ------
    MissingFileError
        There is none.
    HeaderError
        It is no safetensors file.

    """
    path = parent.folder / COUNTS_NAME
    if not is_named(path):
        raise MissingFileError(
            f"{parent.folder} has no {COUNTS_NAME}",
            "the counts of the kernels that each class uses",
            "count them with dovetail modules count",
        )
    try:
        return read_file(resolve_in_folder(parent.folder, COUNTS_NAME, "its folder"))
    except OSError as error:
        raise cannot_read(path, error) from error


def read_counts(parent: Parent, stored: Checkpoint | None = None) -> Counts:
    """Read the counts of a network; `stored` is their file, if it is open already.

    Raises
    ------
    MissingFileError
        There are none.
    TensorMismatchError
        They are not those of the network's classes and layers, or are no counts.

    """
    stored = stored or open_counts(parent)
    classes, layers = len(parent.classes), masked_layers(parent.architecture)
    samples = _read(stored, _SAMPLES, (classes,), "I64")
    counts, soft = {}, {}
    for layer in layers:
        shape = (classes, parent.architecture.shapes[layer][0])
        counts[layer] = _read(stored, _COUNTS + layer, shape, "I64")
        if counts[layer].min() < 0 or (counts[layer] > samples[:, None]).any():
            raise _misfit(stored, f"tensor {_COUNTS + layer!r} counts more samples than there are", "0 to `samples`")
        if _SOFT + layer in stored.tensors:
            soft[layer] = _read(stored, _SOFT + layer, shape, "F64")
            if not (np.isfinite(soft[layer]).all() and soft[layer].min() >= 0 and soft[layer].max() <= 1):
                raise _misfit(stored, f"tensor {_SOFT + layer!r} has masks beyond 0 to 1", "means of masks")
    stored.check_unchanged()
    return Counts(samples, counts, soft if len(soft) == len(layers) else {})


def _read(stored: Checkpoint, name: str, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    info = stored.tensors.get(name)
    if info is None or tuple(info.shape) != shape or info.dtype.name != kind:
        found = "missing" if info is None else f"{info.dtype} {list(info.shape)}"
        raise _misfit(stored, f"tensor {name!r} is {found}", f"{DTYPES[kind]} {list(shape)}")
    return read_whole(info)


def read_whole(info: TensorInfo) -> NDArray[Any]:
    """Read a small tensor: an array of its own, of its shape."""
    info.source.populate(0, info.length)  # raises an error for pages that cannot be read
    data = info.source.read(0, info.length).copy().view(to_numpy(info.dtype))
    info.source.release(0, info.length)
    return data.reshape(info.shape)


def _misfit(stored: Checkpoint, what: str, expected: str) -> TensorMismatchError:
    return TensorMismatchError(
        f"{stored.path}: {what}", expected, "count again with dovetail modules count, for the network beside it"
    )


def class_numbers(classes: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Find chosen classes among those of a network.

    Raises
    ------
    RecipeError
        A class is unknown or chosen twice, or none is chosen.

    """
    for index, name in enumerate(wanted):
        if name not in classes:
            raise RecipeError(f"there is no class {name!r}", f"some of {', '.join(classes)}", "choose among these")
        if name in wanted[:index]:
            raise RecipeError(f"class {name!r} is chosen twice", "each class once", "leave one of them out")
    if not wanted:
        raise RecipeError("no class is chosen", f"some of {', '.join(classes)}", "choose among these")
    return [classes.index(name) for name in wanted]


def kernels_of(counts: Counts, number: int, name: str, threshold: float, architecture: Architecture) -> ClassKernels:
    """Find the kernels of one class: those that at least a share of its samples use.

    Where no kernel of a layer is used so often, the layer's threshold falls by `STEP` until one is. Where none is even
    at the last step above zero, the most used kernel alone is kept, the first of equal ones: no layer can be empty.

    Parameters
    ----------
    counts
        The network's counts.
    number, name
        The class.
    threshold
        The share, above 0 and at most 1.
    architecture
        The network.

    Raises
    ------
    RecipeError
        The threshold is no such number, or no sample of the class was counted.

    """
    if not 0 < threshold <= 1:
        raise RecipeError(f"the threshold is {threshold}", "a number above 0, and at most 1")
    samples = int(counts.samples[number])
    if samples == 0:
        raise RecipeError(
            f"no sample of class {name!r} was counted", "at least one", "count again with samples of all classes"
        )
    kept, thresholds = {}, {}
    for layer in masked_layers(architecture):
        used = counts.counts[layer][number]
        left = Fraction(str(threshold))  # exact, so that 0.9 of 10 samples are 9 whatever the rounding
        while left > 0 and not (found := _reach(used, samples, left)).any():
            left -= STEP
        if left <= 0:
            left, found = Fraction(0), np.arange(len(used)) == used.argmax()
        kept[layer], thresholds[layer] = found, float(left)
    return ClassKernels(kept, thresholds)


def _reach(used: NDArray[np.int64], samples: int, share: Fraction) -> NDArray[np.bool_]:
    least = -(-share.numerator * samples // share.denominator)
    found: NDArray[np.bool_] = used >= least
    return found
