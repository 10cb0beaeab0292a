"""Storing what each model of a recipe keeps: the function behind ``dovetail vectors``.

A store is planned and carried out as a merge is; it is another output of the same models. Memory, journal, staging and
checksums are those of every merge.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out
from dovetail.engine.actions.completion import Complete
from dovetail.engine.actions.finished import find_finished, tell_finished
from dovetail.engine.actions.given_manifest import gives_manifest
from dovetail.engine.actions.parts import laid_out
from dovetail.engine.actions.spared import input_paths
from dovetail.engine.output.card import CARD_NAME, store_card
from dovetail.engine.output.manifest import build_manifest, total_statistics, write_manifest
from dovetail.engine.output.request import plan_request
from dovetail.engine.output.side_files import RECIPE_NAME
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.storing import StorePlan, plan_store
from dovetail.engine.planning.vectors.document import DOCUMENT_NAME
from dovetail.engine.progress import shows_progress
from dovetail.engine.recipe import RecipeSource
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.records import RecordTable
from dovetail.io.errors import NonFiniteError
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.files.durable import write_durably
from dovetail.io.files.home import expand_home
from dovetail.io.zarr.vectors import VALUES_CODEC, VectorsFormat


@gives_manifest
@shows_progress("storing")
def make_vectors(
    recipe: RecipeSource,
    output: str | os.PathLike[str],
    options: PlanOptions | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    codec: str = VALUES_CODEC,
    *,
    progress: bool | events.Listener = False,
) -> dict[str, Any]:
    """Store what each model of a recipe keeps of its changes, so that it can be merged again without the models.

    A recipe that has the same models and the same pruning, and names the store as its ``vectors``, gives the same bits
    as the models do, for any weights. Only the base model is read besides the store.

    After an interruption, the same call continues. If the store is complete, the call does nothing.

    Parameters
    ----------
    recipe
        As for `dovetail.engine.merge`, of one document, by a method that prunes task vectors before it weighs them. Its
        weights and all else that does not decide what models keep have no effect.
    output
        Folder to make; it appears under its name only when it is complete.
    options
        Of these, `PlanOptions.seed`, `PlanOptions.strict` and `PlanOptions.allow_partial` count.
    run, listen, progress
        As for `dovetail.engine.merge`.
    codec
        How the values are compressed: ``blosc``, ``zstd`` or ``none``, and the marks by Zstandard or not at all.

    Returns
    -------
    Manifest
        A dict: the manifest of the store without its ``tensors``; ``totals`` says how much each model keeps.

    Raises
    ------
    RecipeError
        The recipe or an option is wrong, or what the models keep by it depends on weights or cannot be stored.
    CheckpointError
        A checkpoint is bad, holds NaN or infinity, or the checkpoints do not fit together.
    MemoryLimitError, DiskSpaceError
        The work does not fit into the memory limit or onto the disk.
    OutputError
        The output folder is refused because files would be lost, or the output cannot be written.
    InterruptedMergeError
        The work was interrupted and can be continued.

    Examples
    --------
    >>> manifest = make_vectors("recipe.yml", "vectors")
    >>> manifest["output_format"], manifest["models"]
    ('vectors', ['math', 'code'])

    """
    started, output, run = time.monotonic(), expand_home(output), run or RunOptions()
    store = plan_store(recipe, store_options(options or PlanOptions(), codec), download=listen)
    plan = laid_out(store.plan, output, run)
    request = replace(plan_request(plan), side_files=dict)
    if (manifest := find_finished(output, request, input_paths(plan), run)) is not None:
        tell_finished(output, plan.noun, manifest, run, listen, started)
        return manifest
    try:
        return carry_out(plan, output, run, listen, started=started, complete=_completion(store))
    except NonFiniteError as error:
        raise NonFiniteError(
            error.what, f"{error.expected}, as a store keeps no others", "repair the checkpoint"
        ) from error


def store_options(options: PlanOptions, codec: str) -> PlanOptions:
    """Take those options that count for a store."""
    return PlanOptions(
        VectorsFormat(codec), seed=options.seed, strict=options.strict, allow_partial=options.allow_partial
    )


def _completion(store: StorePlan) -> Complete:
    """Give the function that writes the small files and the manifest."""

    def complete(plan: Plan, table: RecordTable, staging: Path) -> dict[str, Any]:
        card = store_card(plan, total_statistics(plan, table))
        made = {
            DOCUMENT_NAME: store.document.to_bytes(),
            RECIPE_NAME: plan.recipe.text.encode(),
            CARD_NAME: card.encode(),
        }
        for name, content in made.items():
            write_durably(staging / name, content)
        entries = {
            name: {"size_bytes": len(content), "checksum": hex_checksum(content)}
            for name, content in {**made, **plan.layout.documents}.items()
        }
        manifest = build_manifest(plan, table, entries)
        write_manifest(staging, manifest, plan, table, plan.hash)
        return manifest

    return complete
