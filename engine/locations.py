"""Where a recipe's models are: from references to places, and from places to open checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dovetail.engine.recipe.model_ref import ModelRef, resolve_model_path
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.opening import read_checkpoint
from dovetail.io.zarr_remote import is_zarr_address


@dataclass(frozen=True, slots=True)
class Location:
    """All that is needed to open a model again; the manifest keeps it."""

    address: str
    """The checkpoint's folder or file, or the address of a remote one."""


def locate(ref: ModelRef, recipe_folder: Path | None = None) -> Location:
    """Find the place that a reference stands for.

    Raises
    ------
    RecipeError
        A kind of reference that cannot be used.
    MissingFileError
        Nothing is there.

    """
    if is_zarr_address(ref.path) and not ref.lora:
        return Location(ref.path)
    return Location(str(resolve_model_path(ref, recipe_folder)))


def open_location(location: Location) -> Checkpoint:
    """Open what is at a place; see `dovetail.io.read_checkpoint` for what it raises."""
    return read_checkpoint(location.address)
