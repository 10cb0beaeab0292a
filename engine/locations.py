"""Where a recipe's models are: from references to places, and from places to open checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dovetail.engine.recipe.model_ref import ModelRef, resolve_adapter_path, resolve_model_path
from dovetail.io.adapters import apply_adapter, read_adapter
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.opening import read_checkpoint


@dataclass(frozen=True, slots=True)
class Location:
    """All that is needed to open a model again; the manifest keeps it."""

    address: str
    """The checkpoint's folder or file."""
    adapter: str | None = None
    """The folder of the adapter to apply, if any."""


def locate(ref: ModelRef, recipe_folder: Path | None = None) -> Location:
    """Find the place that a reference stands for.

    Raises
    ------
    RecipeError
        A kind of reference that cannot be used.
    MissingFileError
        Nothing is there.

    """
    adapter = None if ref.lora is None else str(resolve_adapter_path(ref, recipe_folder))
    return Location(str(resolve_model_path(ref, recipe_folder)), adapter)


def open_location(location: Location) -> Checkpoint:
    """Open what is at a place; see `read_checkpoint` and `dovetail.io.adapters.apply_adapter` for what it raises."""
    checkpoint = read_checkpoint(location.address)
    return checkpoint if location.adapter is None else apply_adapter(checkpoint, read_adapter(location.adapter))
