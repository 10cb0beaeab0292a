"""The folder of a modular network: its weights, ``modular.json``, and the counts of the kernels that classes use.

========================  ==============================================================================================
file                      what it holds
========================  ==============================================================================================
``model.safetensors``     the weights by the names of the architecture, also in shards; with mask generators, if there
                          are any, as ``mask_generators.<convolution>.reduce.weight`` and so on
``modular.json``          the architecture (without generators), the classes in the order of the logits, whether there
                          are generators, the threshold for extraction, and whatever the trainer says ``about`` itself
``counts.safetensors``    see `dovetail.engine.modular.network.counts`
========================  ==============================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular.network.architecture import Architecture, with_generators
from dovetail.engine.modular.network.documents import (
    architecture_from_json,
    architecture_to_json,
    checked_object,
    read_document,
    wrong,
)
from dovetail.engine.modular.network.inputs import InputScale, scale_of
from dovetail.engine.modular.network.node import Shape
from dovetail.engine.modular.network.settings import check_name
from dovetail.engine.text import counted
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import TensorMismatchError
from dovetail.io.files.durable import replace_durably
from dovetail.io.files.strict_json import brief
from dovetail.io.opening import read_checkpoint

PARENT_NAME: Final = "modular.json"
"""File that makes a folder of weights a modular network."""

THRESHOLD: Final = 0.9
"""Share of a class's samples that must use a kernel for the class's module to have it (MwT, arXiv:2306.09376)."""

_FORMAT: Final = "dovetail-modular"
_VERSION: Final = 1
_MOST_CLASSES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Parent:
    """A modular network that is stored in a folder."""

    folder: Path
    """The folder."""
    architecture: Architecture
    """The network without mask generators."""
    classes: tuple[str, ...]
    """The classes, in the order of the logits."""
    generators: bool
    """Whether its weights include mask generators."""
    threshold: float
    """Share of samples from which on a kernel is a class's own, if nothing else is asked for."""
    checkpoint: Checkpoint
    """Its weights."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What its trainer says about it."""
    inputs: InputScale | None = None
    """How its inputs are normalised, if its trainer says so."""

    @property
    def whole(self) -> Architecture:
        """The network with its mask generators, if it has any."""
        return with_generators(self.architecture) if self.generators else self.architecture


def parent_to_json(
    architecture: Architecture,
    classes: Sequence[str],
    *,
    generators: bool,
    threshold: float = THRESHOLD,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe a modular network as ``modular.json`` has it."""
    return {
        "format": _FORMAT,
        "format_version": _VERSION,
        "architecture": architecture_to_json(architecture),
        "classes": list(classes),
        "generators": generators,
        "threshold": threshold,
        "about": dict(about or {}),
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file durably, so that it is there either as it was or as it is to be.

    Raises
    ------
    OSError
        If the disk is full or fails.

    """
    replace_durably(path, (json.dumps(document, indent=1) + "\n").encode())


def read_parent(folder: str | Path) -> Parent:
    """Open a modular network: read its description and the headers of its weights, and check that they fit.

    Raises
    ------
    ArchitectureError
        ``modular.json`` is damaged.
    MissingFileError
        There is no such folder, or it has no ``modular.json`` or no weights.
    TensorMismatchError
        A tensor of the architecture is missing or has another shape, or is no floating-point tensor.

    """
    place, document = read_document(folder, PARENT_NAME, "modular network", "train")
    try:
        architecture, classes, values = _read_document(document)
        inputs = scale_of(values["about"], architecture.input_shape[0])
    except ArchitectureError as error:
        raise ArchitectureError(f"{place / PARENT_NAME}: {error.what}", error.expected, error.action) from None
    parent = Parent(
        place,
        architecture,
        classes,
        values["generators"],
        float(values["threshold"]),
        read_checkpoint(place),
        values["about"],
        inputs,
    )
    check_tensors(parent.checkpoint, parent.whole.tensor_shapes())
    return parent


def _read_document(document: dict[str, Any]) -> tuple[Architecture, tuple[str, ...], dict[str, Any]]:
    kinds = {"format": str, "format_version": int, "architecture": dict, "classes": list, "generators": bool}
    values = checked_object("the file", {"about": {}, **document}, {**kinds, "threshold": float, "about": dict})
    if (values["format"], values["format_version"]) != (_FORMAT, _VERSION):
        raise wrong(f"the format is {brief(values['format'])}, version {brief(values['format_version'])}", _FORMAT)
    architecture = architecture_from_json(values["architecture"])
    classes = read_classes(values["classes"], architecture)
    if not 0 < values["threshold"] <= 1:
        raise wrong(f"the threshold is {values['threshold']}", "a number above 0, and at most 1")
    return architecture, classes, values


def read_classes(given: list[Any], architecture: Architecture) -> tuple[str, ...]:
    """Check the names of classes, one for each logit of a network.

    Raises
    ------
    ArchitectureError
        There are more or fewer than logits, a name is no printable text, or two are the same.

    """
    shape = architecture.shapes[architecture.output]
    if len(shape) != 1 or shape[0] != len(given) or len(given) > _MOST_CLASSES:
        raise wrong(f"{counted(len(given), 'class')} for a network that gives {list(shape)} values", "a logit for each")
    for name in given:
        check_name("the name of a class", name)
    if len(set(given)) != len(given):
        twice = next(name for index, name in enumerate(given) if name in given[:index])
        raise wrong(f"two classes are called {brief(twice)}", "a name of its own for each")
    return tuple(given)


def check_tensors(checkpoint: Checkpoint, shapes: Mapping[str, Shape]) -> None:
    """Check that a checkpoint has the tensors of an architecture.

    Raises
    ------
    TensorMismatchError
        One is missing or has another shape, or is no floating-point tensor where one is needed.

    """
    for name, shape in shapes.items():
        info = checkpoint.tensors.get(name)
        if info is None or tuple(info.shape) != shape:
            raise TensorMismatchError(
                f"{checkpoint.path} has {'no tensor' if info is None else list(info.shape)} {name!r}",
                f"{list(shape)}, as the architecture beside it says",
                "put weights and description of one network together",
            )
        if not info.dtype.mergeable and shape:  # only counters of batches, which have no dimension, are whole numbers
            raise TensorMismatchError(
                f"tensor {name!r} of {checkpoint.path} is {info.dtype}", "a floating-point tensor"
            )
