"""Extracting an adapter from a fine-tuned model: the function behind ``dovetail extract-lora``.

It has two steps. The first factors one matrix after another and keeps the factors in a folder beside the output. The
second is an ordinary plan that copies them, and what is kept whole, into the adapter: journal, staging, checksums and
publication are those of every merge. The first is no `Program`, for two reasons. A plan knows the shape of
every output tensor before it reads one, but here the rank, and whether a matrix changed at all, follow from the data.
And both factors of a matrix come from one computation, which holds thin matrices in memory between its passes: they are
too large for a task to carry.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out
from dovetail.engine.actions.convert import find_source, parse_source
from dovetail.engine.actions.finished import find_finished, tell_finished
from dovetail.engine.actions.given_manifest import gives_manifest
from dovetail.engine.actions.parts import refuse_part
from dovetail.engine.actions.spared import checkpoint_paths
from dovetail.engine.errors import InterruptedMergeError, RecipeError
from dovetail.engine.methods.copy import Copy
from dovetail.engine.methods.extract_lora import EXTRACT_LORA
from dovetail.engine.output.adapter_files import adapter_card, summary, write_adapter_files
from dovetail.engine.output.lineage import hub_names
from dovetail.engine.output.manifest import build_manifest, write_manifest
from dovetail.engine.output.request import Part, Request
from dovetail.engine.output.staging import discard, discard_unused, is_bare, stages_path
from dovetail.engine.output.target import check_disk_space, check_target
from dovetail.engine.planning.assembly import assemble
from dovetail.engine.planning.extraction.adapter import Kept, adapter_config, kept_whole
from dovetail.engine.planning.extraction.experts import unapplied
from dovetail.engine.planning.extraction.modules import module_of
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.engine.planning.extraction.plan import Extraction, plan_extraction
from dovetail.engine.planning.grid import chunk_elements
from dovetail.engine.planning.locations import open_location
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.planning.work import Input
from dovetail.engine.progress import shows_progress
from dovetail.engine.recipe import ModelRef, Recipe
from dovetail.engine.recipe.schema import InputModel
from dovetail.engine.run import factoring
from dovetail.engine.run.budget import TENSOR_BYTES, Budget, default_limit_bytes, fit, least
from dovetail.engine.run.chunk_sharing import pool_bytes
from dovetail.engine.run.differences import COMPARING_BYTES, equal
from dovetail.engine.run.factor_store import FactorStore, MatrixReport, has_factors, is_store_of
from dovetail.engine.run.lock import LOCK_NAME, locked
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.records import RecordTable
from dovetail.io.adapters.reading import WEIGHTS_NAME
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.files.home import expand_home
from dovetail.io.files.interrupts import check_interrupts, held
from dovetail.io.files.machine import resident_bytes, usable_cores
from dovetail.io.formats.safetensors_format import SafetensorsFormat
from dovetail.io.output_format import Chunking
from dovetail.io.zarr.chunk_pool import ChunkPool, sharing_chunks

_TIED = (
    "{} is the base model's head too: it is kept whole, as peft would merge a low-rank change into tied tensors twice."
)


@dataclass(frozen=True, slots=True)
class _Adapter:
    """Everything from which the second step makes the adapter."""

    reports: tuple[MatrixReport, ...]
    """What became of every matrix."""
    factors: Checkpoint
    """The factors."""
    kept: Kept
    """What is kept whole."""
    notes: tuple[str, ...]
    """What a person should know."""


@gives_manifest
@shows_progress("extracting")
def extract_lora(
    tuned: str | os.PathLike[str],
    base: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: ExtractionOptions | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    *,
    progress: bool | events.Listener = False,
) -> dict[str, Any]:
    """Write what a fine-tuned model changed in its base model as a low-rank adapter that peft loads.

    Every matrix that changed is factored by a randomised singular value decomposition of its change; what cannot be
    factored and changed is kept whole. The same call after an interruption continues with the next matrix.

    Parameters
    ----------
    tuned, base
        The fine-tuned model and its base model: anything that a recipe can name as a model.
    output
        Folder to make; it appears under its name only when it is complete.
    options
        Ranks, dtype, and what is looked at.
    run
        How the work is done; no effect on the output's bytes.
    listen
        Receives events, on the calling thread.
    progress
        True shows a bar with bytes done, rate and time left, in a terminal or a notebook. A function receives every
        event, as `listen` does.

    Returns
    -------
    Manifest
        A dict: the manifest but for its ``tensors``; ``extraction`` in it has the report on every matrix.

    Raises
    ------
    DovetailError
        One of the tree in `dovetail.engine.errors` and `dovetail.io.errors`.

    Examples
    --------
    >>> manifest = extract_lora("math", "base", "math-adapter", ExtractionOptions(rank=8))
    >>> max(found["rank"] for found in manifest["extraction"]["matrices"].values())
    8

    """
    started, output, run = time.monotonic(), expand_home(output), run or RunOptions()
    refuse_part(run, "an extraction")
    names = (os.fspath(tuned), os.fspath(base))
    opened = [open_location(find_source(parse_source(name), listen)) for name in names]
    plan = plan_extraction(opened[0], opened[1], names, options or ExtractionOptions())
    folder = stages_path(output)
    request, spared = _request(plan), list(checkpoint_paths((plan.tuned, plan.base)))
    if (manifest := find_finished(output, request, spared, run)) is not None:
        if is_store_of(folder, plan.hash) or is_bare(folder):
            discard_unused(folder)
        tell_finished(output, request.noun, manifest, run, listen, started)
        return manifest
    check_target(output, spared, overwrite=run.overwrite)
    with held(), locked(folder, listen):
        try:
            adapter = _factor(plan, folder, run, listen)
            manifest = _put_together(plan, adapter, output, run, listen, started)
        except (KeyboardInterrupt, InterruptedMergeError):
            raise InterruptedMergeError(
                f"extraction interrupted; the matrices that were factored are safe in {folder}",
                action="run the same command again to continue",
            ) from None
        except RecipeError:  # what was factored is of no use to other options
            discard(folder)
            raise
        except BaseException:
            if not has_factors(folder):
                discard(folder)
            raise
        discard(folder)
    return manifest


def _request(plan: Extraction) -> Request:
    """Give what is asked for, so that it can be compared with an adapter that is there."""
    return Request(
        noun="adapter",
        hash=plan.hash,
        parts=(
            Part("the models", ("recipe",), _recipe(plan).to_json()),
            Part("the options", ("extraction", "options"), asdict(plan.options)),
        ),
        checkpoints=(plan.tuned, plan.base),
    )


def _recipe(plan: Extraction) -> Recipe:
    """Describe the extraction as a recipe, for the manifest."""
    tuned, base = [ModelRef(path=name) for name in plan.names]
    return Recipe(merge_method=EXTRACT_LORA.name, base_model=base, models=(InputModel(model=tuned),))


def _budget(plan: Extraction, run: RunOptions) -> Budget:
    """Fit the largest matrix to the memory limit."""
    factoring.warm_up()
    thin = max((factoring.thin_bytes(pair, plan.options) for pair in plan.matrices), default=0)
    most = max((factoring.task_bytes(pair, plan.options) for pair in plan.matrices), default=0)
    compared = [*((pair.tuned, pair.base) for pair in plan.others), *plan.copies]
    reading = max((info.source.scratch_bytes for both in compared for info in both if info is not None), default=0)
    most = max(most, COMPARING_BYTES + reading)
    reserved = resident_bytes() + TENSOR_BYTES * (len(plan.matrices) + len(plan.others)) + thin
    workers = run.workers if run.workers is not None else usable_cores()
    budget = fit(run.memory_bytes or default_limit_bytes(least(reserved, most)), reserved, most, workers)
    sources = (info.source for model in (plan.tuned, plan.base) for info in model.tensors.values())
    return replace(budget, shared_bytes=pool_bytes(sources, budget))


class _Reading:
    """Tells progress: bytes of both models read, every pass counted."""

    def __init__(self, plan: Extraction, listen: events.Listener) -> None:
        self._listen, self._began, self._done = listen, time.monotonic(), 0
        self._total = sum(factoring.passes(pair, plan.options) * pair.nbytes for pair in plan.matrices)
        self._total += sum(pair.nbytes for pair in plan.others)

    def __call__(self, read_bytes: int) -> None:
        check_interrupts()
        self._done += read_bytes
        seconds = time.monotonic() - self._began
        self._listen(events.Progress(self._done, max(self._total, self._done), seconds, resident_bytes()))


def _factor(plan: Extraction, folder: Path, run: RunOptions, listen: events.Listener) -> _Adapter:
    """Run the first step, or the rest of it if an earlier run was interrupted."""
    budget = _budget(plan, run)
    with sharing_chunks(ChunkPool(budget.shared_bytes)):
        return _factor_within(plan, folder, run, budget, listen)


def _factor_within(
    plan: Extraction, folder: Path, run: RunOptions, budget: Budget, listen: events.Listener
) -> _Adapter:
    """Run the first step within a budget."""
    if run.restart:
        for path in folder.iterdir():
            if path.name != LOCK_NAME:
                path.unlink()
    store, options, reading = FactorStore(folder, plan.hash), plan.options, _Reading(plan, listen)
    check_disk_space(folder, _most_bytes(plan))
    _check_copies(plan, reading)
    notes = list(plan.notes)
    changed = [pair for pair in plan.others if pair.base is None or not equal(pair.tuned, pair.base, reading)]
    if any(pair.name == plan.tied and pair.base is not None for pair in changed):
        notes.append(_TIED.format(plan.tied))
    for note in notes:
        listen(events.Notice("warning", note))
    found: list[tuple[MatrixReport, Checkpoint]] = []
    with factoring.Factoring(plan.names, options, budget.workers, reading) as factoring_now:
        for index, pair in enumerate(plan.matrices):
            if (stored := store.find(index)) is None:
                factors = factoring_now.factor(pair)
                for checkpoint in (plan.tuned, plan.base):
                    checkpoint.check_unchanged()
                stored = store.add(index, pair, factors, factoring.factor_dtype(pair, options))
            found.append(stored)
    reports = [report for report, _ in found]
    _fill_packs(plan, store, found)
    thin = [pair for pair, report in zip(plan.matrices, reports, strict=True) if report.rank]
    lost = unapplied([(pair.name, pair.packed is not None) for pair in (*thin, *changed)], plan.config, plan.names[1])
    for note in lost:
        listen(events.Notice("warning", note))
    notes += lost
    factored = {module_of(report.name) for report in reports if report.rank}
    kept = kept_whole(plan, changed, factored)
    if not factored and not kept.tensors:
        raise RecipeError(
            f"{plan.names[0]} has nothing that differs from {plan.names[1]}",
            "a fine-tuned model and its base model",
            "check the paths and --include, --exclude",
        )
    return _Adapter(tuple(reports), _joined(folder, [part for _, part in found]), kept, tuple(notes))


def _fill_packs(plan: Extraction, store: FactorStore, found: list[tuple[MatrixReport, Checkpoint]]) -> None:
    """Give experts that did not change factors of nothing, where peft packs them with others that did."""
    pairs = [(index, pair, found[index][0].rank) for index, pair in enumerate(plan.matrices)]
    changed = {pair.packed for _, pair, rank in pairs if rank}
    for index, pair, rank in pairs:
        if pair.packed is not None and pair.packed in changed and not rank:
            nothing = factoring.no_change(pair, plan.options)
            found[index] = store.add(index, pair, nothing, factoring.factor_dtype(pair, plan.options))


def _most_bytes(plan: Extraction) -> int:
    """Give the most that the factors can take on the disk."""
    rank = plan.options.most_rank
    ranks = ((pair, rank if pair.packed else min(rank, pair.rows, pair.columns)) for pair in plan.matrices)
    return sum(4 * each * (pair.rows + pair.columns) for pair, each in ranks)


def _check_copies(plan: Extraction, reading: _Reading) -> None:
    """Refuse a head that differs from the fine-tuned model's embedding where the base model ties the two."""
    for head, embedding in plan.copies:
        if head.shape != embedding.shape or not equal(head, embedding, reading):
            raise RecipeError(
                f"head {head.name!r} of {plan.names[0]} differs from its embedding, and {plan.names[1]} ties both",
                "a base model with a head of its own: an adapter cannot untie them",
                "store the base model's embedding as its head too and set tie_word_embeddings to false, or --exclude "
                f"'{head.name}'",
            )


def _joined(folder: Path, parts: Sequence[Checkpoint]) -> Checkpoint:
    """Give the catalogue of all factors."""
    return Checkpoint(
        path=folder,
        folder=folder,
        tensors={name: info for part in parts for name, info in part.tensors.items()},
        metadata={},
        files=tuple(file for part in parts for file in part.files),
    )


def _put_together(
    plan: Extraction, adapter: _Adapter, output: Path, run: RunOptions, listen: events.Listener, started: float
) -> dict[str, Any]:
    """Run the second step."""

    def complete(copying: Plan, table: RecordTable, staging: Path) -> dict[str, Any]:
        pairs = zip(plan.matrices, adapter.reports, strict=True)
        ranks = {module_of(pair.loaded): report.rank for pair, report in pairs if report.rank}
        config = adapter_config(plan, ranks, adapter.kept)
        whole = list(adapter.kept.tensors)
        card = adapter_card(plan.names, hub_names([plan.base]), adapter.reports, whole, adapter.notes)
        side_files = write_adapter_files(staging, config, card)
        manifest = build_manifest(copying, table, side_files, inputs=2)  # the third are the factors
        manifest["extraction"] = {
            "options": asdict(plan.options),
            "totals": summary(adapter.reports, whole),
            "matrices": {report.name: report.to_json() for report in adapter.reports},
            "whole": whole,
            "left_out": list(plan.left_out),
            "notes": list(adapter.notes),
        }
        write_manifest(staging, manifest, copying, table, plan.hash)
        return manifest

    return carry_out(_copying_plan(plan, adapter), output, run, listen, started=started, complete=complete)


def _copying_plan(plan: Extraction, adapter: _Adapter) -> Plan:
    """Plan the second step: every tensor is copied as it is."""
    tensors = [(name, info, 2) for name, info in adapter.factors.tensors.items()]
    tensors += [(name, info, 0) for name, info in adapter.kept.tensors.items()]
    labels = (*plan.names, "factors")
    return assemble(
        recipe=_recipe(plan),
        options=PlanOptions(SafetensorsFormat(2**62, WEIGHTS_NAME), seed=plan.options.seed, keep_nonfinite=True),
        method=EXTRACT_LORA,
        checkpoints=(plan.tuned, plan.base, adapter.factors),
        base=None,
        models=(plan.names[0],),
        tensors=tuple(_copied(name, info, labels[source]) for name, info, source in tensors),
    )


def _copied(name: str, info: TensorInfo, label: str) -> PlannedTensor:
    element_bytes = 2 * info.dtype.itemsize
    return PlannedTensor(
        name=name,
        shape=info.shape,
        length=info.length,
        dtype=info.dtype,
        program=Copy(compared=False),
        problem=None,
        base=None,
        models=(Input(info.source, -1, label, info.name),),
        order=(0,),
        element_bytes=element_bytes,
        chunking=Chunking(chunk_elements(element_bytes, 1)),
    )
