"""The document of a store of task vectors: of which models it is, and by what their changes were chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import xxhash

from dovetail.engine.planning.plan import MATHS_VERSION
from dovetail.io.checkpoint import FileFingerprint
from dovetail.io.dtypes import DTYPES
from dovetail.io.errors import StoreError
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.files.strict_json import JsonDefectError, brief, decode_json

DOCUMENT_NAME: Final = "dovetail_vectors.json"
"""File name of the document in a store."""

_FORMAT: Final = "dovetail-vectors"
_FORMAT_VERSION: Final = 1
_LONGEST_BYTES: Final = 2**28
_AGAIN: Final = "copy the store again, or make it anew"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """What plans must know of a model that is not there."""

    config: dict[str, Any] | None
    """Its configuration."""
    tensors: Mapping[str, tuple[Any, ...]]
    """Its tensors by name: dtype, shape, and the dtype that the model has if it is dequantised while it is read."""
    copies: tuple[tuple[str, str, bool | None], ...] = ()
    """Pairs of its tensors of which plans ask whether the one is a copy of the other, with the answers."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What the store has of one output tensor."""

    shape: tuple[int, ...]
    """Its shape."""
    chunk: int
    """Elements of a chunk."""
    base_dtype: str
    """Dtype of the base model's tensor."""
    models: tuple[str, ...]
    """The models that it is merged from, in the order of the method."""
    dtypes: tuple[str, ...]
    """Dtypes of their tensors."""
    most: tuple[int, ...]
    """For each of them, the values in a row."""
    parameters: Mapping[str, Any]
    """Parameters of the merge that decide what models keep."""
    model_parameters: tuple[Mapping[str, Any], ...]
    """Those of each model."""
    random_name: str | None
    """The name by which random masks were drawn; None where none are."""


@dataclass(frozen=True, slots=True)
class StoreDocument:
    """The whole document."""

    family: str
    """What methods have in common that keep the same: see `dovetail.engine.methods.method.Masks`."""
    method: str
    """The method of the recipe of which the store was made."""
    seed: int | None
    """Seed of random masks; None where none are drawn."""
    models: Mapping[str, StoredModel]
    """The models by the names that the recipe has for them."""
    tensors: Mapping[str, StoredTensor]
    """The tensors by name."""

    def to_bytes(self) -> bytes:
        """Write the document as JSON, with one line for each model and tensor."""
        head = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "maths_version": MATHS_VERSION,
            "family": self.family,
            "method": self.method,
            "seed": self.seed,
        }
        text = json.dumps(head, indent=1).removesuffix("\n}")
        for key, entries in (("models", self.models), ("tensors", self.tensors)):
            lines = (f"  {json.dumps(name)}: {json.dumps(asdict(entry))}" for name, entry in entries.items())
            text += f',\n "{key}": {{\n' + ",\n".join(lines) + "\n }"
        return (text + "\n}\n").encode()


def read_document(folder: Path) -> tuple[StoreDocument, FileFingerprint]:
    """Read the document of a store, and note what its file is like.

    Raises
    ------
    StoreError
        There is none, or it is damaged, or from another version of Dovetail.

    """
    path = folder / DOCUMENT_NAME
    try:
        raw, status = read_at_most(path, _LONGEST_BYTES + 1), path.stat()
    except OSError as error:
        raise StoreError(
            f"{folder} is no store of task vectors: {DOCUMENT_NAME} cannot be read ({error.strerror})",
            "a folder that dovetail vectors has made",
            "make one of the models, or correct 'vectors' in the recipe",
        ) from error
    try:
        if len(raw) > _LONGEST_BYTES:
            raise JsonDefectError(f"has more than {_LONGEST_BYTES} bytes")
        found = decode_json(raw, constants=True)
        version = found["format"], found["format_version"], found["maths_version"]
        if version != (_FORMAT, _FORMAT_VERSION, MATHS_VERSION):
            raise StoreError(
                f"{path} is of format {brief(version[0])}, version {brief(version[1])}, maths {brief(version[2])}",
                f"{_FORMAT}, version {_FORMAT_VERSION}, maths {MATHS_VERSION}",
                "make the store anew by this version of Dovetail",
            )
        document = _document(found)
    except JsonDefectError as error:
        raise StoreError(f"{path} {error}", "the document of a store", _AGAIN) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}: {brief(str(error))})", "the document of a store", _AGAIN
        ) from error
    print_ = FileFingerprint(DOCUMENT_NAME, status.st_size, status.st_mtime_ns, xxhash.xxh3_128_hexdigest(raw))
    return document, print_


def _document(found: Mapping[str, Any]) -> StoreDocument:
    return StoreDocument(
        family=_text(found["family"]),
        method=_text(found["method"]),
        seed=None if found["seed"] is None else _whole(found["seed"]),
        models={name: _model(entry) for name, entry in found["models"].items()},
        tensors={name: _tensor(entry) for name, entry in found["tensors"].items()},
    )


def _model(entry: Mapping[str, Any]) -> StoredModel:
    if entry["config"] is not None and not isinstance(entry["config"], dict):
        raise TypeError("config is no object")
    tensors = {}
    for name, (dtype, shape, *own) in entry["tensors"].items():
        tensors[name] = (_dtype(dtype), tuple(map(_whole, shape)), *map(_dtype, own))
    copies = tuple(
        (_text(one), _text(other), None if answer is None else bool(answer)) for one, other, answer in entry["copies"]
    )
    return StoredModel(entry["config"], tensors, copies)


def _tensor(entry: Mapping[str, Any]) -> StoredTensor:
    made = StoredTensor(
        shape=tuple(map(_whole, entry["shape"])),
        chunk=_whole(entry["chunk"]),
        base_dtype=_dtype(entry["base_dtype"]),
        models=tuple(map(_text, entry["models"])),
        dtypes=tuple(map(_dtype, entry["dtypes"])),
        most=tuple(map(_whole, entry["most"])),
        parameters=dict(entry["parameters"]),
        model_parameters=tuple(map(dict, entry["model_parameters"])),
        random_name=None if entry["random_name"] is None else _text(entry["random_name"]),
    )
    counts = {len(getattr(made, item.name)) for item in fields(made) if item.name in _EACH}
    if len(counts) != 1 or not made.chunk or not all(each and each % 8 == 0 for each in made.most):
        raise ValueError("a tensor's lists do not fit each other")
    return made


_EACH: Final = ("models", "dtypes", "most", "model_parameters")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{brief(value)} is no text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError(f"{brief(value)} is no whole number")
    return value


def _dtype(value: Any) -> str:
    if value not in DTYPES:
        raise ValueError(f"{brief(value)} is no dtype")
    return _text(value)
