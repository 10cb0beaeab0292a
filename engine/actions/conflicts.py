"""Saying who overrode whom in a merge that is done: the function behind ``dovetail report --conflicts``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dovetail.engine import events
from dovetail.engine.actions.recompute import plan_again
from dovetail.engine.actions.verify import DEFECTS, manifest_error, read_manifest
from dovetail.engine.errors import VerificationError
from dovetail.engine.methods.contest import Losses, make_contest, try_contest
from dovetail.engine.methods.convert import CONVERT
from dovetail.engine.planning.grid import make_jobs
from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.run.measuring import measure
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.engine.run.warm import trials, warm_up
from dovetail.io.errors import DovetailError
from dovetail.io.files.interrupts import held
from dovetail.io.files.machine import resident_bytes


@dataclass(frozen=True, slots=True)
class Conflicts:
    """What models wanted to change, and lost to others. A tensor's models are in the order of the manifest."""

    tensors: tuple[str, ...]
    """Names of the tensors in which models were in conflict, or could have been."""
    wanted: NDArray[np.int64]
    """``[tensor, i]``: number of changes that model i wants."""
    wanted_square: NDArray[np.float64]
    """The sums of their squares."""
    lost: NDArray[np.int64]
    """``[tensor, i, j]``: of these, those that it loses to model j; on the diagonal, that it loses at all."""
    lost_square: NDArray[np.float64]
    """The sums of their squares."""
    left_out: int
    """Tensors of which this program cannot tell."""


def conflicts(output: Path, run: RunOptions, listen: events.Listener = events.ignore) -> Conflicts:
    """Find, from the inputs of a merge, what its models lost to each other.

    The inputs are read as often as the merge read them, within the memory limit. Nothing is written.

    Parameters
    ----------
    output
        A folder that `merge` has written; its inputs must still be at the same places.
    run
        Memory limit and workers.
    listen
        Receives progress, on the calling thread.

    Raises
    ------
    VerificationError
        The output is that of no method that overrides changes, or its inputs have changed.
    CheckpointError
        An input is missing or damaged.
    MemoryLimitError
        The memory limit is too small.

    """
    started, manifest = time.monotonic(), read_manifest(output)
    try:
        _check(output, manifest)
        plan = plan_again(output, manifest)
    except DovetailError:
        raise
    except DEFECTS as error:
        raise manifest_error(output, error) from None
    merged = [tensor for tensor in plan.tensors if tensor.problem is not None and len(tensor.models) > 1]
    tensors = tuple(_contests(plan, merged))
    if not tensors:
        raise VerificationError(
            f"by {plan.method.name}, as the recipe of {output} uses it, no model overrides another",
            "a method that elects signs, or cabs by blocks",
            "leave out --conflicts",
        )
    jobs = make_jobs(
        [tensor.length for tensor in tensors],
        [tensor.element_bytes for tensor in tensors],
        [tensor.chunking.chunk_elements for tensor in tensors],
    )
    small = replace(plan, tensors=tensors, jobs=tuple(jobs))
    return _measured(small, run, listen, started, len(merged) - len(tensors))


def _check(output: Path, manifest: dict[str, object]) -> None:
    recipe = manifest["recipe"]
    assert isinstance(recipe, dict)
    if recipe.get("vectors") is not None or recipe["merge_method"] == CONVERT.name:
        raise VerificationError(
            f"{output} was not merged from models", "the output of a merge of models", "leave out --conflicts"
        )


def _contests(plan: Plan, merged: list[PlannedTensor]) -> Iterator[PlannedTensor]:
    """Give the tensors in which models can override each other, with the program that finds out."""
    for tensor in merged:
        assert tensor.problem is not None
        program = make_contest(plan.method, tensor.problem)
        if program is not None:
            yield replace(tensor, program=program)


def _measured(plan: Plan, run: RunOptions, listen: events.Listener, started: float, left_out: int) -> Conflicts:
    problems = [tensor.problem for tensor in plan.tensors if tensor.problem is not None]
    needed = [partial(try_contest, *each) for each in trials(plan.method.name, problems) if isinstance(each, tuple)]
    warm_up(needed, lambda text: listen(events.Notice("info", text)))
    count, models = len(plan.tensors), len(plan.models)
    found = Conflicts(  # all of it in memory at once, so that the budget counts it
        tuple(tensor.name for tensor in plan.tensors),
        np.full((count, models), 0, np.int64),
        np.full((count, models), 0.0),
        np.full((count, models, models), 0, np.int64),
        np.full((count, models, models), 0.0),
        left_out,
    )
    budget, _ = prepare(plan, run, listen, compared_bytes=plan.accumulated_bytes(1))
    done, total = 0, sum(tensor.input_bytes for tensor in plan.tensors)
    with held(), contextlib.closing(measure(plan, budget)) as measurements:
        for step in measurements:
            for place, losses in step.tensors:
                _put(found, place, losses, plan.tensors[place].order)
            done, total = done + step.read_bytes, total + step.again_bytes  # each pass says whether another follows
            listen(events.Progress(done, max(done, total), time.monotonic() - started, resident_bytes()))
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()
    return found


def _put(found: Conflicts, place: int, losses: Losses, order: tuple[int, ...]) -> None:
    """Put a tensor's losses, which are in the order of its method, in the order of the models."""
    where = np.array(order, np.int64)
    np.add.at(found.wanted[place], where, losses.wanted)
    np.add.at(found.wanted_square[place], where, losses.wanted_square)
    # A model that is named twice is its own rival, which is no loss to another model.
    counts = (where[:, None] != where) | np.eye(len(where), dtype=bool)
    np.add.at(found.lost[place], np.ix_(where, where), losses.lost * counts)
    np.add.at(found.lost_square[place], np.ix_(where, where), losses.lost_square * counts)
