"""From planned tensors to a whole plan: places in the output, tasks, and the hash by which a plan is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from dovetail.engine.methods.method import Method, plug_in_entry
from dovetail.engine.planning.grid import make_jobs
from dovetail.engine.planning.placing import lay_out
from dovetail.engine.planning.plan import MATHS_VERSION, Plan, PlannedTensor, PlanOptions
from dovetail.engine.planning.vocabulary import Vocabulary
from dovetail.engine.recipe import Recipe, StackedLayers
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.output_format import Layout

_NOT_HASHED = ("format", "strict")
"""Options that are no part of a plan's hash by themselves: a format has an identity, and strictness changes no byte."""


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
    tensors, layout = lay_out(tensors, options.format, metadata)
    jobs = make_jobs(
        [item.length for item in tensors],
        [item.element_bytes for item in tensors],
        [item.chunking.chunk_elements for item in tensors],
        [item.chunking.chunk_period for item in tensors],
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
        hash=_hash(recipe, options, method, checkpoints, tensors, layout, vocabulary),
    )


def _identity(checkpoint: Checkpoint) -> list[object]:
    """List what tells a checkpoint, and its adapter if it has one, from any other."""
    identity: list[object] = [str(checkpoint.path), [asdict(file) for file in checkpoint.files]]
    if checkpoint.adapter is not None:
        identity += [str(checkpoint.adapter.folder), [asdict(file) for file in checkpoint.adapter.files]]
    return identity


def _options_identity(options: PlanOptions) -> dict[str, Any]:
    """List every option that decides the output's bytes, those of the format among them."""
    others = {item.name: getattr(options, item.name) for item in fields(options) if item.name not in _NOT_HASHED}
    return {**others, **options.format.identity()}


def _hash(
    recipe: Recipe,
    options: PlanOptions,
    method: Method,
    checkpoints: Sequence[Checkpoint],
    tensors: Sequence[PlannedTensor],
    layout: Layout,
    vocabulary: Vocabulary | None,
) -> str:
    """Hash everything that decides the output's bytes, and what a journal's entries mean: files and chunks."""
    content = {
        "maths_version": MATHS_VERSION,
        "recipe": recipe.canonical_json(),
        "options": _options_identity(options),
        "inputs": [_identity(item) for item in checkpoints],
        "outputs": [[shard.file_name, hashlib.sha256(shard.header).hexdigest()] for shard in layout.shards],
        "vocabulary": vocabulary.inputs() if vocabulary else None,
        "chunks": [[item.chunking.chunk_elements, item.chunking.chunk_period] for item in tensors],
        **plug_in_entry(method),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
