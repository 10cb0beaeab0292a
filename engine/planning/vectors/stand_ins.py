"""Stand-ins for models of which only the store of their task vectors is there: they can be planned, and not be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from dovetail.engine.planning.vectors.document import StoredModel
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.dtypes import DTYPES
from dovetail.io.sources.absent import AbsentSource

CopyTest = Callable[[Checkpoint, str, str], "bool | None"]
"""Says whether two tensors of a checkpoint have the same bytes: `dovetail.engine.planning.copies.is_copy`, or alike."""


def stand_in(name: str, model: StoredModel) -> Checkpoint:
    """Make the stand-in of a model."""
    tensors = {}
    for tensor, (dtype_name, shape, *own) in model.tensors.items():
        dtype = DTYPES[dtype_name]
        source = AbsentSource(prod(shape), dtype.itemsize, "the model of this tensor is not there")
        tensors[tensor] = TensorInfo(tensor, dtype, shape, source, DTYPES[own[0]] if own else None)
    return Checkpoint(stand_in_path(name), None, tensors, {}, ())


def stand_in_path(name: str) -> Path:
    """Give what stands for the place of a model that is not there; no checkpoint lies at a relative path."""
    return Path(f"vectors of {name}")


def _place(checkpoint: Checkpoint) -> str:
    """Tell a checkpoint, with its adapter, from others."""
    return str(checkpoint.path) + ("" if checkpoint.adapter is None else f"+{checkpoint.adapter.folder}")


@dataclass
class Questions:
    """Asks whether tensors are copies, and remembers the answers for the store."""

    ask: CopyTest
    """Who knows."""
    answers: dict[str, list[tuple[str, str, bool | None]]] = field(default_factory=dict)
    """The answers so far by the place of the checkpoint."""

    def __call__(self, checkpoint: Checkpoint, one: str, other: str) -> bool | None:
        """Ask, and remember."""
        answer = self.ask(checkpoint, one, other)
        self.answers.setdefault(_place(checkpoint), []).append((one, other, answer))
        return answer


@dataclass(frozen=True)
class Remembered:
    """Answers for stand-ins what was answered when the store was made, and asks of all other checkpoints."""

    ask: CopyTest
    """Who knows of checkpoints that are there."""
    known: Mapping[str, Sequence[tuple[str, str, bool | None]]]
    """The answers by the name of the model."""

    def __call__(self, checkpoint: Checkpoint, one: str, other: str) -> bool | None:
        """Remember, or ask."""
        place = _place(checkpoint)
        known = next((answers for name, answers in self.known.items() if place == str(stand_in_path(name))), None)
        if known is None:
            return self.ask(checkpoint, one, other)
        return next((answer for a, b, answer in known if {a, b} == {one, other}), None)


def stored_model(checkpoint: Checkpoint, config: dict[str, Any] | None, questions: Questions) -> StoredModel:
    """Note of a model what plans must know of it."""
    tensors: dict[str, tuple[Any, ...]] = {}
    for name, info in checkpoint.tensors.items():
        own = () if info.own_dtype is None else (info.own_dtype.name,)
        tensors[name] = (info.dtype.name, info.shape, *own)
    return StoredModel(config, tensors, tuple(questions.answers.get(_place(checkpoint), ())))
