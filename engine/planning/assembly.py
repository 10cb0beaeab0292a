"""From planned tensors to a whole plan: places in the output, tasks, and the hash by which a plan is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from dovetail.engine.methods.method import Method, plug_in_entry
from dovetail.engine.planning.grid import Job, make_jobs
from dovetail.engine.planning.placing import lay_out
from dovetail.engine.planning.plan import MATHS_VERSION, Plan, PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.recipe import Recipe, StackedLayers
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.output_format import Layout

if TYPE_CHECKING:
    from dovetail.engine.planning.vocabulary.output_vocabulary import Vocabulary

_NOT_HASHED = ("format", "strict", "allow_partial", "round_float32", "copy_tokenizer", "model_card", "card_pictures")
"""Options that are no part of a plan's hash by themselves: a format has an identity, what decides between an error and
a warning changes no byte, dtypes are in the headers of the output, which are hashed, and of small files only those that
are left out count."""


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
    tie: bool | None = None,
    vocabulary: Vocabulary | None = None,
    warnings: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
    layout: Layout | None = None,
    jobs: tuple[Job, ...] | None = None,
) -> Plan:
    """Give every planned tensor its place in the output and in a task; see `Plan` for the parameters.

    Parameters
    ----------
    metadata
        Free-form metadata of the output; None for the usual.
    layout
        Where the tensors go, if they have their places already; else None.
    jobs
        The tasks, if another layout of tensors that are cut alike has them already; else None.

    """
    if layout is None:
        tensors, layout = lay_out(tensors, options.format, metadata)
    return Plan(
        recipe=recipe,
        options=options,
        method=method,
        checkpoints=checkpoints,
        base=base,
        models=models,
        tensors=tensors,
        layout=layout,
        jobs=_jobs(tensors) if jobs is None else jobs,
        stacks=stacks,
        tie=tie,
        vocabulary=vocabulary,
        warnings=warnings,
        hash=_hash(recipe, options, method, checkpoints, tensors, layout, vocabulary),
    )


def _jobs(tensors: Sequence[PlannedTensor]) -> tuple[Job, ...]:
    """Group the tensors that have inputs into jobs: these write the further outputs of their problems too."""
    if not any(item.followers for item in tensors):
        return tuple(_jobs_of(tensors))
    places = [place for place, item in enumerate(tensors) if item.output == 0]
    for place in places:
        for item in tensors[place : place + 1 + len(tensors[place].followers)]:
            _check_edges(item)
    return tuple(
        replace(
            job, tasks=tuple(tuple(piece._replace(tensor=places[piece.tensor]) for piece in task) for task in job.tasks)
        )
        for job in _jobs_of([tensors[place] for place in places])
    )


def _jobs_of(tensors: Sequence[PlannedTensor]) -> list[Job]:
    return make_jobs(
        [item.domain for item in tensors],
        [item.element_bytes for item in tensors],
        [item.chunking.chunk_elements for item in tensors],
        [item.chunking.chunk_period for item in tensors],
    )


def _check_edges(item: PlannedTensor) -> None:
    """Make sure that the chunks of a problem give every element of an output once: a hole would be read as zeros."""
    end = 0
    for index in range(item.chunk_count):
        start, stop = item.chunk_range(index)
        if start != end or stop < start:
            raise AssertionError(f"chunk {index} of {item.name} gives elements {start} to {stop}, not from {end} on")
        end = stop
    if end != item.length:
        raise AssertionError(f"the chunks of {item.name} give {end} of {item.length} elements")


def _identity(checkpoint: Checkpoint) -> list[object]:
    """List what tells a checkpoint, and its adapter if it has one, from any other."""
    identity: list[object] = [str(checkpoint.path), [asdict(file) for file in checkpoint.files]]
    if checkpoint.adapter is not None:
        identity += [str(checkpoint.adapter.folder), [asdict(file) for file in checkpoint.adapter.files]]
    if checkpoint.dequantised:  # the blocks of scales may come from config.json, which is none of the files
        forms = {name: info.stored.text for name, info in checkpoint.tensors.items() if info.stored is not None}
        identity.append(hashlib.sha256(json.dumps(forms).encode()).hexdigest())
    return identity


def _options_identity(options: PlanOptions) -> dict[str, Any]:
    """List every option that decides the output's bytes, those of the format among them."""
    others = {item.name: getattr(options, item.name) for item in fields(options) if item.name not in _NOT_HASHED}
    return {**others, **options.format.identity(), **options.small_files()}


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
        "chunks": [
            [
                item.chunking.chunk_elements,
                item.chunking.chunk_period,
                *([] if item.inputs_length is None else item.chunk_edges),
            ]
            for item in tensors
        ],
        **plug_in_entry(method),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
