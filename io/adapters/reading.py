"""Reading the folder of a peft adapter, and applying the adapter to a checkpoint without making a full-size tensor.

An adapter is never trusted: its configuration and the names and shapes of its tensors are checked against each other
and against the model. The tensors tell which modules the adapter changes, and with which ranks; the regular expressions
in the configuration that select modules are not run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dovetail.io.adapters.config import CONFIG_NAME, AdapterConfig
from dovetail.io.adapters.config_reader import read_adapter_config
from dovetail.io.adapters.fitting import Changes
from dovetail.io.adapters.memory_names import with_file_names
from dovetail.io.adapters.names import AdapterTensors, sort_tensors
from dovetail.io.adapters.parameters import change_parameters, find_places, split_parameters
from dovetail.io.adapters.renaming import find_names
from dovetail.io.adapters.ties import settle_ties
from dovetail.io.checkpoint import AppliedAdapter, Checkpoint, FileFingerprint, TensorInfo, cannot_read
from dovetail.io.errors import AdapterError, MissingFileError
from dovetail.io.files.home import absolute_path
from dovetail.io.files.smallfile import is_named
from dovetail.io.formats import torch_reader
from dovetail.io.formats.config import config_of
from dovetail.io.formats.index import resolve_in_folder
from dovetail.io.formats.safetensors_reader import read_file

WEIGHTS_NAME: Final = "adapter_model.safetensors"
"""File name of the tensors of an adapter."""

_TORCH_NAME: Final = "adapter_model.bin"

_NEW_HEADS: Final = frozenset(("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"))
"""Tasks for which an adapter adds a head that the model lacks."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter with its configuration and tensor names, both read and checked."""

    folder: Path
    """Folder of the adapter, an absolute path."""
    config: AdapterConfig
    """Configuration of the adapter."""
    tensors: AdapterTensors
    """Tensors of the adapter, sorted into parts of modules and whole tensors."""
    files: tuple[FileFingerprint, ...]
    """Fingerprints of the adapter's files."""


def read_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Read the configuration of an adapter and the header of its tensors, but no tensor data.

    Parameters
    ----------
    path
        A folder with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``adapter_model.bin``).

    Raises
    ------
    MissingFileError
        The folder or one of the files is missing.
    AdapterError, HeaderError
        A file breaks the rules of its format.
    UnsupportedError
        The adapter is of a kind that cannot be applied.

    """
    folder = absolute_path(path)
    try:
        return _read(folder)
    except OSError as error:
        raise cannot_read(folder, error) from error


def _read(folder: Path) -> Adapter:
    if not folder.is_dir():
        raise MissingFileError(f"there is no adapter at {folder}", f"a folder with {CONFIG_NAME}", "check the path")
    config = read_adapter_config(folder)
    weights = _read_weights(folder)
    tensors = sort_tensors(str(folder), weights.tensors, nested=bool(config.parameters))
    if not tensors.modules and not tensors.whole:
        raise AdapterError(f"{folder} has no tensors", "an adapter that changes something", "download it again")
    return Adapter(folder, config, tensors, (config.fingerprint, *weights.files))


def _read_weights(folder: Path) -> Checkpoint:
    """Read the names, dtypes and shapes of the adapter's tensors."""
    if is_named(folder / WEIGHTS_NAME):
        return read_file(resolve_in_folder(folder, WEIGHTS_NAME, "its folder"))
    if is_named(folder / _TORCH_NAME):
        return torch_reader.read_file(resolve_in_folder(folder, _TORCH_NAME, "its folder"))
    raise MissingFileError(f"{folder} has no {WEIGHTS_NAME}", "the adapter's tensors", "download the adapter again")


def apply_adapter(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Apply an adapter: make a checkpoint in which the changed tensors are computed as they are read.

    The changed tensors are float32, so that nothing is rounded before a merge; `TensorInfo.output_dtype` still gives
    the dtype of the model.

    Parameters
    ----------
    checkpoint
        The model.
    adapter
        The adapter, as `read_adapter` gives it.

    Raises
    ------
    AdapterError
        The adapter does not fit the model.
    UnsupportedError
        The adapter changes the model in a way that cannot be computed here.

    """
    if checkpoint.adapter is not None:
        raise AdapterError(f"{checkpoint.path} has an adapter already", "one adapter a model", "apply one of them")
    label, config = str(adapter.folder), adapter.config
    model = config_of(checkpoint) or {}
    parts = with_file_names(adapter.tensors, model, checkpoint.tensors)
    parts, head, notes = settle_ties(label, checkpoint, model, config, parts)
    if head is not None:
        checkpoint = replace(checkpoint, tensors={**checkpoint.tensors, head.name: head})
    heads = {name for name in parts.whole if config.task in _NEW_HEADS and not config.saved.isdisjoint(name.split("."))}
    parts, wrapped = split_parameters(label, config, parts, checkpoint.tensors)
    places = [(each, find_places(label, each, checkpoint.tensors)) for each in wrapped]
    pieces = (name for _, found in places for place in found for name, _, _ in place.pieces)
    needed = [*(f"{module}.weight" for module in parts.modules), *parts.whole, *pieces]
    names = find_names(label, str(checkpoint.path), needed, checkpoint.tensors, heads)
    tensors = dict(checkpoint.tensors)
    changed: set[str] = set()
    for name, info in parts.whole.items():
        target = names.get(name, name)
        tensors[target] = _replaced(label, tensors.get(target), info._replace(name=target))
        changed.add(target)
    changes = Changes(
        adapter.folder, config, parts.modules, {module: names[f"{module}.weight"] for module in parts.modules}
    )
    parameters, more_notes = change_parameters(label, config, places, names, tensors) if places else ([], ())
    for info in (*changes.of(tensors), *parameters):
        tensors[info.name] = info
        changed.add(info.name)
    applied = AppliedAdapter(adapter.folder, adapter.files, len(changed), unties=head is not None)
    return replace(checkpoint, tensors=tensors, adapter=applied, notes=(*checkpoint.notes, *notes, *more_notes))


def _replaced(adapter: str, old: TensorInfo | None, new: TensorInfo) -> TensorInfo:
    """Replace a tensor of the model by one of the adapter, which may have another number of rows."""
    if old is None:
        return new
    if (len(old.shape), old.shape[1:]) != (len(new.shape), new.shape[1:]) or old.dtype.mergeable != new.dtype.mergeable:
        raise AdapterError(
            f"{adapter} replaces tensor {new.name!r} by one of {new.dtype} and shape {list(new.shape)}",
            f"{old.dtype} and shape {list(old.shape)}, as in the model",
            "use the model that the adapter was trained on",
        )
    return new._replace(own_dtype=old.output_dtype)
