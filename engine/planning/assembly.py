"""From planned tensors to a whole plan: places in the output, tasks, and the hash by which a plan is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from dovetail.engine.methods.method import Method
from dovetail.engine.planning.grid import make_jobs
from dovetail.engine.planning.placing import lay_out
from dovetail.engine.planning.plan import MATHS_VERSION, Plan, PlannedTensor, PlanOptions
from dovetail.engine.planning.vocabulary import Vocabulary
from dovetail.engine.recipe import Recipe, StackedLayers
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.output import Layout


def assemble(
    *,
    recipe: Recipe,
    options: PlanOptions,
    method: Method,
    checkpoints: tuple[Checkpoint, ...],
    base: Checkpoint | None,
    models: tuple[str, ...],
    tensors: tuple[PlannedTensor, ...],
    stacks: tuple[StackedLayers, ...] = (),
    untied: bool = False,
    vocabulary: Vocabulary | None = None,
    warnings: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
) -> Plan:
    """Give every planned tensor its place in the output and in a task; see `Plan` for the parameters.

    Parameters
    ----------
    metadata
        Free-form metadata of the output; None for the usual.

    """
    tensors, layout = lay_out(tensors, options, metadata)
    jobs = make_jobs(
        [item.length for item in tensors],
        [item.element_bytes for item in tensors],
        [item.chunk_elements for item in tensors],
        [item.chunk_period for item in tensors],
    )
    return Plan(
        recipe=recipe,
        options=options,
        method=method,
        checkpoints=checkpoints,
        base=base,
        models=models,
        tensors=tensors,
        layout=layout,
        jobs=tuple(jobs),
        stacks=stacks,
        untied=untied,
        vocabulary=vocabulary,
        warnings=warnings,
        hash=_hash(recipe, options, checkpoints, tensors, layout, vocabulary),
    )


def _identity(checkpoint: Checkpoint) -> list[object]:
    """List what tells a checkpoint, and its adapter if it has one, from any other."""
    identity: list[object] = [str(checkpoint.path), [asdict(file) for file in checkpoint.files]]
    if checkpoint.adapter is not None:
        identity += [str(checkpoint.adapter.folder), [asdict(file) for file in checkpoint.adapter.files]]
    return identity


def _hash(
    recipe: Recipe,
    options: PlanOptions,
    checkpoints: Sequence[Checkpoint],
    tensors: Sequence[PlannedTensor],
    layout: Layout,
    vocabulary: Vocabulary | None,
) -> str:
    """Hash everything that decides the output's bytes, and what a journal's entries mean: files and chunks."""
    content = {
        "maths_version": MATHS_VERSION,
        "recipe": recipe.canonical_json(),
        "options": {key: value for key, value in asdict(options).items() if key != "strict"},
        "inputs": [_identity(item) for item in checkpoints],
        "outputs": [[shard.file_name, hashlib.sha256(shard.header).hexdigest()] for shard in layout.shards],
        "vocabulary": vocabulary.inputs() if vocabulary else None,
        "chunks": [[item.chunk_elements, item.chunk_period] for item in tensors],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
