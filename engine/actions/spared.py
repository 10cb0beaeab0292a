"""What an output must spare: the recipe, the checkpoints, and all files of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dovetail.engine.planning.plan import Plan
from dovetail.io.checkpoint import Checkpoint


def input_paths(plan: Plan) -> Iterator[Path]:
    """List every path that the output must spare: the recipe, each checkpoint, and its files, which may be links."""
    if plan.recipe.origin.path is not None:
        yield plan.recipe.origin.path
    yield from checkpoint_paths(plan.checkpoints)


def checkpoint_paths(checkpoints: Iterable[Checkpoint]) -> Iterator[Path]:
    """Give the places of checkpoints, of all their files, and of their adapters."""
    for checkpoint in checkpoints:
        if isinstance(checkpoint.path, str):
            continue  # an address
        yield checkpoint.path
        if checkpoint.folder is not None:
            # Only Zarr has files in inner folders, and its reader has checked that no link leads out of those.
            yield from (checkpoint.folder / file.name for file in checkpoint.files if "/" not in file.name)
        if checkpoint.adapter is not None:
            yield from (checkpoint.adapter.folder, *checkpoint.adapter.paths)
