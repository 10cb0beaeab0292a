"""``modules.json``, the description of a module: its network, its classes, and what it is of which parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular.extraction.indices import indices_of, indices_text
from dovetail.engine.modular.network.architecture import Architecture
from dovetail.engine.modular.network.cutting import Part
from dovetail.engine.modular.network.documents import (
    architecture_from_json,
    architecture_to_json,
    checked_object,
    read_document,
    wrong,
)
from dovetail.engine.modular.network.inputs import InputScale, scale_from_json
from dovetail.engine.modular.network.parent import check_tensors, read_classes
from dovetail.engine.modular.network.settings import MOST, check_name
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.files.strict_json import brief
from dovetail.io.opening import read_checkpoint

MODULE_NAME: Final = "modules.json"
"""File that makes a folder of weights a module."""

MASKS: Final = ("generators", "folded", "hard")
"""What a module can have of its parent's soft masks: their generators, the mean masks of its classes, or nothing."""

_MOST_KERNELS: Final = 2**24  # of all layers of a parent; a text of a few bytes must not make an array of gigabytes
_FORMAT: Final = "dovetail-module"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ClassShare:
    """What one class has of a parent's kernels."""

    samples: int
    """Samples of the class that were counted."""
    thresholds: Mapping[str, float]
    """For each masked layer of the parent the threshold that was applied in the end."""
    kernels: Mapping[str, int]
    """For each masked layer of the parent the number of the class's own kernels."""


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """What a module has of one parent."""

    name: str
    """The parent's folder by its last name, for people."""
    digest: str
    """The digest of the parent's weights; see `digest_of`."""
    masks: str
    """One of `MASKS`."""
    threshold: float
    """The threshold that was asked for."""
    classes: Mapping[str, ClassShare]
    """The classes of this parent, in the order of its logits in the module."""
    kept: Mapping[str, NDArray[np.bool_]]
    """For each masked layer of the parent which of its kernels the module has: bool[kernels]."""
    inputs: InputScale | None = None
    """How the parent's inputs are normalised, if it says so; a module takes those of its first parent."""


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What a tensor of a module is."""

    parent: int
    """Index of the parent."""
    part: Part
    """The part of the parent's tensor; of a tensor that was made by folding masks, the part of that."""


@dataclass(frozen=True, slots=True, eq=False)
class ModuleDescription:
    """What ``modules.json`` says."""

    architecture: Architecture
    """The network of the module."""
    classes: tuple[str, ...]
    """Its classes, in the order of its logits."""
    parents: tuple[Origin, ...]
    """What it was made of."""
    tensors: Mapping[str, Taken]
    """For each tensor of the architecture what it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A module that is stored in a folder."""

    folder: Path
    """The folder."""
    description: ModuleDescription
    """What ``modules.json`` says."""
    checkpoint: Checkpoint = field(repr=False)
    """Its weights."""


def description_to_json(description: ModuleDescription) -> dict[str, Any]:
    """Describe a module as ``modules.json`` has it."""
    return {
        "format": _FORMAT,
        "format_version": _VERSION,
        "classes": list(description.classes),
        "parents": [_origin_to_json(origin) for origin in description.parents],
        "architecture": architecture_to_json(description.architecture),
        "tensors": {name: _taken_to_json(taken) for name, taken in description.tensors.items()},
    }


def _origin_to_json(origin: Origin) -> dict[str, Any]:
    return {
        "name": origin.name,
        "digest": origin.digest,
        "masks": origin.masks,
        "threshold": origin.threshold,
        "classes": {
            name: {"samples": each.samples, "thresholds": dict(each.thresholds), "kernels": dict(each.kernels)}
            for name, each in origin.classes.items()
        },
        "kernels": {
            layer: {"of": len(mask), "kept": indices_text(np.flatnonzero(mask))} for layer, mask in origin.kept.items()
        },
        **({} if origin.inputs is None else {"inputs": origin.inputs.to_json()}),
    }


def _taken_to_json(taken: Taken) -> dict[str, Any]:
    found: dict[str, Any] = {"parent": taken.parent, "tensor": taken.part.tensor}
    if taken.part.rows is not None:
        found["rows"] = indices_text(taken.part.rows)
    if taken.part.columns is not None:
        found["columns"] = indices_text(taken.part.columns)
    return found


def read_module(folder: str | Path) -> Module:
    """Open a module: read its description and the headers of its weights, and check that they fit.

    Raises
    ------
    ArchitectureError
        ``modules.json`` is damaged.
    MissingFileError
        There is no such folder, or it has no ``modules.json`` or no weights.
    TensorMismatchError
        A tensor of the architecture is missing or has another shape, or is no floating-point tensor.

    """
    place, document = read_document(folder, MODULE_NAME, "module", "extract or compose")
    checkpoint = read_checkpoint(place)
    try:
        description = description_from_json(document, checkpoint)
    except ArchitectureError as error:
        raise ArchitectureError(f"{place / MODULE_NAME}: {error.what}", error.expected, error.action) from None
    return Module(place, description, checkpoint)


def description_from_json(document: object, checkpoint: Checkpoint) -> ModuleDescription:
    """Read what ``modules.json`` says, which may be damaged or hostile.

    Parameters
    ----------
    document
        What the file holds.
    checkpoint
        The weights beside it.

    Raises
    ------
    ArchitectureError
        A key is missing, unknown or of the wrong type, or values do not fit each other.
    TensorMismatchError
        The weights are not those of the architecture.

    """
    kinds = {"format": str, "format_version": int, "classes": list, "parents": list, "architecture": dict}
    values = checked_object("the file", document, {**kinds, "tensors": dict})
    if (values["format"], values["format_version"]) != (_FORMAT, _VERSION):
        raise wrong(f"the format is {brief(values['format'])}, version {brief(values['format_version'])}", _FORMAT)
    architecture = architecture_from_json(values["architecture"])
    check_tensors(checkpoint, architecture.tensor_shapes())  # first, as the sizes of all that follows depend on it
    channels = architecture.input_shape[0]
    parents = tuple(
        _origin_from_json(f"parent {index}", item, channels) for index, item in enumerate(values["parents"])
    )
    classes = read_classes(values["classes"], architecture)
    if sorted(name for origin in parents for name in origin.classes) != sorted(classes):
        raise wrong("the classes are not those of the parents", "each class with one parent")
    shapes = architecture.tensor_shapes()
    if set(values["tensors"]) != set(shapes):
        odd = sorted(set(values["tensors"]) ^ set(shapes))[0]
        raise wrong(f"tensor {brief(odd)} is only in one of tensors and architecture", "the same tensors in both")
    tensors = {
        name: _taken_from_json(f"tensor {brief(name)}", values["tensors"][name], shape, len(parents))
        for name, shape in shapes.items()
    }
    return ModuleDescription(architecture, classes, parents, tensors)


def _origin_from_json(what: str, document: object, channels: int) -> Origin:
    inputs = {"inputs": dict} if type(document) is dict and "inputs" in document else {}
    kinds = {**inputs, "name": str, "digest": str, "masks": str, "threshold": float, "classes": dict, "kernels": dict}
    values = checked_object(what, document, kinds)
    for key in ("name", "digest"):
        check_name(f"the {key} of {what}", values[key])
    if values["masks"] not in MASKS:
        raise wrong(f"masks of {what} is {brief(values['masks'])}", f"one of {', '.join(MASKS)}")
    if not 0 < values["threshold"] <= 1:
        raise wrong(f"threshold of {what} is {values['threshold']}", "a number above 0, and at most 1")
    kept: dict[str, NDArray[np.bool_]] = {}
    for layer, entry in values["kernels"].items():
        kernels = checked_object(f"layer {brief(layer)} of {what}", entry, {"of": int, "kept": str})
        if not 1 <= kernels["of"] <= _MOST_KERNELS - sum(len(mask) for mask in kept.values()):
            raise wrong(f"layer {brief(layer)} of {what} has {kernels['of']} kernels", f"1 to {_MOST_KERNELS} in all")
        chosen = indices_of(kernels["kept"], kernels["of"], f"kernels of layer {brief(layer)} of {what}")
        kept[layer] = np.isin(np.arange(kernels["of"]), chosen)
    classes = {name: _share_from_json(f"class {brief(name)}", item, kept) for name, item in values["classes"].items()}
    scale = scale_from_json(f"inputs of {what}", values["inputs"], channels) if inputs else None
    return Origin(values["name"], values["digest"], values["masks"], values["threshold"], classes, kept, scale)


def _share_from_json(what: str, document: object, kept: Mapping[str, NDArray[np.bool_]]) -> ClassShare:
    values = checked_object(what, document, {"samples": int, "thresholds": dict, "kernels": dict})
    if values["samples"] < 1 or list(values["thresholds"]) != list(kept) or list(values["kernels"]) != list(kept):
        raise wrong(f"samples, thresholds or kernels of {what} are not complete", f"those of {', '.join(kept)}")
    for layer, threshold in values["thresholds"].items():
        if type(threshold) is not float or not 0 <= threshold <= 1:
            raise wrong(f"the threshold of layer {brief(layer)} of {what} is {brief(threshold)}", "a number up to 1.0")
    for layer, count in values["kernels"].items():
        if type(count) is not int or not 1 <= count <= len(kept[layer]):
            raise wrong(f"{what} has {brief(count)} kernels of layer {brief(layer)}", f"1 to {len(kept[layer])}")
    return ClassShare(values["samples"], values["thresholds"], values["kernels"])


def _taken_from_json(what: str, document: object, shape: Sequence[int], parents: int) -> Taken:
    optional = {"rows": str, "columns": str}
    given = document if type(document) is dict else {}
    kinds = {"parent": int, "tensor": str, **{key: kind for key, kind in optional.items() if key in given}}
    values = checked_object(what, document, kinds)
    check_name(f"the tensor of {what}", values["tensor"])
    if not 0 <= values["parent"] < parents:
        raise wrong(f"the parent of {what} is {values['parent']}", f"0 to {parents - 1}")
    chosen: list[NDArray[np.int64] | None] = []
    for axis, key in enumerate(optional):
        if key not in values:
            chosen.append(None)
            continue
        count = shape[axis] if axis < len(shape) else 0
        chosen.append(indices_of(values[key], MOST, f"{key} of {what}", count))
    return Taken(values["parent"], Part(values["tensor"], chosen[0], chosen[1]))
