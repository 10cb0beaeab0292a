"""The factors of finished matrices on the disk, one file each, so that an interrupted extraction goes on where it was.

A file appears under its name only when it is durable. A matrix that did not change has a file without tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dovetail.engine.errors import OutputError
from dovetail.engine.planning.extraction.modules import PREFIX, Kind, module_of
from dovetail.engine.planning.extraction.pairing import TensorPair
from dovetail.engine.run.factoring import Factors
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.dtypes import DType
from dovetail.io.errors import CheckpointError
from dovetail.io.files.durable import replace_durably, sync_folder, write_durably
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.formats.header import build_header
from dovetail.io.formats.safetensors_reader import read_file

_IDENTITY: Final = "dovetail_extraction.json"
_LONGEST_BYTES: Final = 4096
_KEY: Final = "dovetail"


@dataclass(frozen=True, slots=True)
class MatrixReport:
    """What became of one matrix."""

    name: str
    """The tensor's name in the base model."""
    shape: tuple[int, ...]
    """Its shape."""
    rank: int
    """Rank of its factors; 0 if it did not change."""
    norm: float
    """Norm of its change."""
    kept: float
    """Share of the change's energy, its sum of squares, that the stored factors keep; 1 if it did not change."""
    error: float
    """Norm of what they leave, divided by the norm of the change."""

    def to_json(self) -> dict[str, Any]:
        """Give it as a JSON object, its name left out."""
        return {"shape": list(self.shape), "rank": self.rank, "norm": self.norm, "kept": self.kept, "error": self.error}


def _stored_identity(folder: Path) -> str | None:
    """Give the identity of the extraction that a folder is for: None if it says nothing, "" if that is damaged."""
    path = folder / _IDENTITY
    try:
        return str(json.loads(read_at_most(path, _LONGEST_BYTES))["hash"]) if path.exists() else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def is_store_of(folder: Path, identity: str) -> bool:
    """Whether a folder is a store of factors of a certain extraction."""
    return _stored_identity(folder) == identity


def has_factors(folder: Path) -> bool:
    """Whether a folder holds anything that would be lost with it."""
    return any(folder.glob("*.safetensors"))


class FactorStore:
    """A folder of factors.

    Parameters
    ----------
    folder
        Where they are; it exists.
    identity
        Hash of the extraction that they belong to.

    Raises
    ------
    OutputError
        The folder holds factors of another extraction.

    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder, self._identity = folder, identity
        path, found = folder / _IDENTITY, _stored_identity(folder)
        if found is None or (found != identity and not has_factors(folder)):
            write_durably(path, json.dumps({"hash": identity}).encode())
            sync_folder(folder)
        elif found != identity:
            raise OutputError(
                f"unfinished extraction {folder} has other models or options",
                "the same as before",
                "restore them, or pass --restart to begin anew",
            )

    def find(self, index: int) -> tuple[MatrixReport, Checkpoint] | None:
        """Give what an earlier run has left of a matrix; None if it is still to do.

        Parameters
        ----------
        index
            Position of the matrix in the extraction.

        """
        path = self._path(index)
        if not path.exists():
            return None
        try:
            checkpoint = read_file(path)
            said = json.loads(checkpoint.metadata[_KEY])
            if said["hash"] != self._identity:
                return None
            return MatrixReport(**{**said["report"], "shape": tuple(said["report"]["shape"])}), checkpoint
        except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def add(
        self, index: int, pair: TensorPair, factors: Factors | None, dtype: DType
    ) -> tuple[MatrixReport, Checkpoint]:
        """Keep what was found of a matrix, durably, and give it as `find` does."""
        report = _report(pair, factors)
        tensors = {} if factors is None else tensors_of(pair, factors)
        said = json.dumps({"hash": self._identity, "report": {"name": report.name, **report.to_json()}})
        header = build_header(((name, dtype, each.shape) for name, each in tensors.items()), {_KEY: said})
        path = self._path(index)
        replace_durably(path, (header, *(np.ascontiguousarray(each).tobytes() for each in tensors.values())))
        return report, read_file(path)

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06}.safetensors"


def _report(pair: TensorPair, factors: Factors | None) -> MatrixReport:
    if factors is None or factors.energy == 0.0:
        return MatrixReport(pair.name, pair.tuned.shape, 0, 0.0, 1.0, 0.0)
    share = factors.residual / factors.energy
    norm = float(np.sqrt(factors.energy))
    return MatrixReport(pair.name, pair.tuned.shape, factors.rank, norm, max(0.0, 1.0 - share), float(np.sqrt(share)))


def tensors_of(pair: TensorPair, factors: Factors) -> Mapping[str, np.ndarray[Any, Any]]:
    """Give the tensors of an adapter that stand for a matrix, by the names that peft has for them."""
    module = PREFIX + module_of(pair.loaded)
    left, right = factors.left, factors.right
    if pair.kind is Kind.EMBEDDING:
        return {f"{module}.lora_embedding_A": left.T, f"{module}.lora_embedding_B": right.T}
    if pair.kind is Kind.TRANSPOSED:
        return {f"{module}.lora_A.weight": left.T, f"{module}.lora_B.weight": right.T}
    kernel = pair.tuned.shape[2:]
    return {
        f"{module}.lora_A.weight": right.reshape(factors.rank, *pair.tuned.shape[1:]),
        f"{module}.lora_B.weight": left.reshape(*left.shape, *(1 for _ in kernel)),
    }
