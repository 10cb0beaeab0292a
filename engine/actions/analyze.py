"""Saying what models are like before they are merged: the function behind ``dovetail analyze``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.analysis import AnalysedTensor, Analysis
from dovetail.engine.actions.analysis_figures import figures
from dovetail.engine.actions.analysis_table import Records, fill_record, new_table, total
from dovetail.engine.actions.cautions import Findings, find_cautions
from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.analysis import DEFAULT_BLOCK
from dovetail.engine.methods.sameness import Differing
from dovetail.engine.output.places import Places
from dovetail.engine.output.tensor_table import labels
from dovetail.engine.planning.analysis import AnalysisPlan, plan_analysis
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.progress import shows_progress
from dovetail.engine.recipe import ModelRef, RecipeSource
from dovetail.engine.run.measuring import measure
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.engine.text import short_name
from dovetail.io.files.interrupts import held
from dovetail.io.files.machine import resident_bytes


@shows_progress("analysing")
def analyze(
    recipe: RecipeSource | Sequence[str | os.PathLike[str]],
    base: str | os.PathLike[str] | None = None,
    options: PlanOptions | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    *,
    n: int = DEFAULT_BLOCK[0],
    m: int = DEFAULT_BLOCK[1],
    progress: bool | events.Listener = False,
) -> Analysis:
    """Say how fine-tuned models have changed their base model, and how their changes lie to each other.

    Every element of every model is read, once or twice, within the memory limit. Figures are exact, and depend neither
    on the limit nor on the number of workers. Nothing is written.

    Parameters
    ----------
    recipe
        A recipe of one document, as for `merge`, of which only the models, the base model, the layers and the tokenizer
        count; or a list of models.
    base
        The base model: required with a list of models, and for a recipe that names none.
    options
        Of these, `PlanOptions.keep_nonfinite` and `PlanOptions.strict` count. With the first, NaN and infinity count as
        unchanged.
    run
        Memory limit and workers.
    listen
        Receives progress and warnings, on the calling thread.
    n, m
        What n:m pruning is to keep of every block, in the figures about it.
    progress
        True shows a bar with bytes done, rate and time left, in a terminal or a notebook. A function receives every
        event, as `listen` does.

    Returns
    -------
    Analysis
        Figures of every model and pair, in all and by layer, kind and tensor, and what is to be looked at, in words.

    Raises
    ------
    RecipeError
        The recipe is wrong, or there is no base model or no other model.
    CheckpointError
        A checkpoint is bad, holds NaN or infinity, or the checkpoints do not fit together.
    MemoryLimitError
        The memory limit is too small.

    Examples
    --------
    >>> found = analyze(["math", "code"], base="base")
    >>> found.models
    ('math', 'code')
    >>> abs(found.total.pairs[0].cosine) < 0.1
    True
    >>> found.cautions
    ()

    """
    started, run = time.monotonic(), run or RunOptions()
    options = replace(options or PlanOptions(), allow_partial=True)
    planned = plan_analysis(*_asked(recipe, base), (n, m), options, listen)
    plan = planned.plan
    for note in plan.warnings:
        listen(events.Notice("warning", note))
    records = new_table(len(plan.tensors), len(plan.models))
    budget, _ = prepare(plan, run, listen)
    unmerged: dict[int, Differing] = {}
    done, most = 0, sum(tensor.input_bytes for tensor in plan.tensors)
    with held(), contextlib.closing(measure(plan, budget)) as measurements:
        for step in measurements:
            for place, found in step.tensors:
                tensor = plan.tensors[place]
                if isinstance(found, Differing):
                    unmerged[place] = found
                else:
                    fill_record(records[place], found, tensor.order, tensor.length)
            done, most = done + step.read_bytes, most + step.again_bytes
            listen(events.Progress(done, most, time.monotonic() - started, resident_bytes()))
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()
    tensors = _tensors(planned, unmerged)
    return Analysis(
        base=planned.base,
        models=plan.models,
        block=(n, m),
        tensors=tensors,
        records=records,
        cautions=find_cautions(_findings(planned, tensors, records)),
        notes=plan.warnings,
        budget=budget,
        read_bytes=done,
        seconds=time.monotonic() - started,
    )


def _asked(
    given: RecipeSource | Sequence[str | os.PathLike[str]], base: str | os.PathLike[str] | None
) -> tuple[RecipeSource, ModelRef | None]:
    """Make a recipe of a list of models; give a recipe with the base model to take in place of its own."""
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        return given, None if base is None else _reference(base)
    models: dict[str, Any] = {"models": [{"model": str(each)} for each in given]}
    named = {} if base is None else {"base_model": str(base)}
    return {"merge_method": "linear", "parameters": {"weight": 1.0}, **named, **models}, None


def _reference(base: str | os.PathLike[str]) -> ModelRef:
    """Read the name of a base model.

    Raises
    ------
    RecipeError
        It is none.

    """
    try:
        return ModelRef.model_validate(str(base))
    except ValueError as error:  # what it says is about keys of recipes
        raise RecipeError(f"base {str(base)!r} names no model", "a folder, a file or a name", "correct it") from error


def _tensors(planned: AnalysisPlan, unmerged: Mapping[int, Differing]) -> tuple[AnalysedTensor, ...]:
    places = Places([tensor.name for tensor in planned.plan.tensors])
    found = []
    for place, tensor in enumerate(planned.plan.tensors):
        same = tuple(not each for each in unmerged[place].models.tolist()) if place in unmerged else None
        dtype, models = tensor.dtype.torch_name, tuple(tensor.order)
        layer, kind = places.layer[place], places.kind[place]
        found.append(AnalysedTensor(tensor.name, dtype, tensor.shape, layer, kind, models, same))
    return tuple(found)


def _findings(planned: AnalysisPlan, tensors: tuple[AnalysedTensor, ...], records: Records) -> Findings:
    names = labels(planned.plan.models)
    return Findings(planned, names, short_name(planned.base), figures(total(records)), tensors, records)
