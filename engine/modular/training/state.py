"""The state of a training on the disk: one file, replaced in one step, so that a kill leaves the old or the new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dovetail.engine.errors import OutputError
from dovetail.io.files.durable import replace_durably

STATE_NAME: Final = "training_state.safetensors"
"""File name of the state in the staging folder."""


@dataclass(slots=True)
class Position:
    """How far a training has come, beside its tensors."""

    epoch: int = 0
    """The epoch that is running, from 0."""
    batch: int = 0
    """Batches of it that are done."""
    loss: float = 0.0
    """Sum of the losses of its images so far."""
    right: int = 0
    """Images of it so far that were classified right."""
    best: float = -1.0
    """Best accuracy on the validation set so far, from 0 to 1; below 0 before the first epoch has ended."""
    stale: int = 0
    """Epochs since the best."""
    seconds: float = 0.0
    """Time spent in training so far, over all runs."""
    history: list[dict[str, float]] = field(default_factory=list)
    """For every epoch that is done its mean ``loss``, its share of images that were ``right``, and the share of the
    validation set that was then (``validation``)."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a training continues from."""

    position: Position
    """How far it has come."""
    tensors: Mapping[str, Tensor]
    """Tensors of the network (``model.``), of the optimizer (``optimizer.``), of the best epoch (``best.``) and of
    torch's random numbers (``random.``)."""


def write_state(folder: Path, identity: Mapping[str, Any], state: State) -> None:
    """Make the state durable.

    Raises
    ------
    OSError
        The disk is full or fails; the former state is still there.

    """
    metadata = {"identity": _text(identity), "position": _text(asdict(state.position))}
    write_tensors(folder / STATE_NAME, state.tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file durably, in one step; raises an OSError if the disk is full or fails."""
    contiguous = {name: each.detach().contiguous().cpu() for name, each in tensors.items()}
    replace_durably(path, save(_unshared(contiguous), metadata))


def read_state(folder: Path, identity: Mapping[str, Any]) -> State | None:
    """Read the state of an earlier run; None if there is none.

    Raises
    ------
    OutputError
        It is damaged, or belongs to a training with other options.

    """
    path = folder / STATE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            found, position = json.loads(metadata["identity"]), Position(**json.loads(metadata["position"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"the unfinished training in {folder} cannot be read ({error})",
            "what an earlier run has left",
            "pass --restart to begin anew",
        ) from error
    if differences := [key for key, value in json.loads(_text(identity)).items() if found.get(key) != value]:
        key = differences[0]
        raise OutputError(
            f"the unfinished training in {folder} has {key} {_text(found.get(key))[:200]}",
            f"{_text(identity[key])[:200]}, as this command asks for",
            "give the same options to continue it, or pass --restart to begin anew",
        )
    return State(position, tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give an optimizer's state as tensors: ``optimizer.PARAMETER.KEY``."""
    states = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{key}": value
        for number, values in states.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` gave."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            states.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Give the tensors under a prefix, without it."""
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def copies(module: nn.Module) -> dict[str, Tensor]:
    """Give copies of a module's tensors, on the processor."""
    return {name: each.detach().cpu().clone() for name, each in module.state_dict().items()}


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory with an earlier one, which safetensors refuses to store."""
    seen: set[int] = set()
    found = {}
    for name, each in tensors.items():
        place = each.untyped_storage().data_ptr()
        found[name] = each.clone() if place in seen else each
        seen.add(place)
    return found


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
