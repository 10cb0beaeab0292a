"""Computing a sample of a finished output again from its inputs, and comparing it with the output bit by bit.

Checksums show that an output still is what the merge wrote; this shows that the merge wrote what the recipe asks for.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.engine import events
from dovetail.engine.actions.convert import plan_from
from dovetail.engine.actions.verify import DEFECTS, manifest_error, read_manifest
from dovetail.engine.errors import RecipeError, VerificationError
from dovetail.engine.methods.convert import CONVERT
from dovetail.engine.methods.extract_lora import EXTRACT_LORA
from dovetail.engine.methods.method import PlugIn, plug_in_entry
from dovetail.engine.methods.modules import MODULES
from dovetail.engine.methods.moe import MOE
from dovetail.engine.methods.program import Bytes
from dovetail.engine.output.inputs import input_entries, portable_files, read_record
from dovetail.engine.output.manifest import SELF_CHECKSUM
from dovetail.engine.output.side_files import RECIPE_NAME
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES, Job
from dovetail.engine.planning.locations import Location
from dovetail.engine.planning.plan import MATHS_VERSION, Plan, PlanOptions
from dovetail.engine.planning.storing import plan_store
from dovetail.engine.progress import shows_progress
from dovetail.engine.recipe import Recipe
from dovetail.engine.recipe.stages import load_stages
from dovetail.engine.run.differences import same_bytes
from dovetail.engine.run.executors import open_executor
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.engine.run.scheduler import Scheduler
from dovetail.engine.run.session import open_session
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError, DovetailError
from dovetail.io.files.home import expand_home
from dovetail.io.files.interrupts import held
from dovetail.io.files.kinds import unlike_a_file
from dovetail.io.files.machine import resident_bytes
from dovetail.io.output import written_format
from dovetail.io.source import Source, checked_slot
from dovetail.io.zarr.vectors import VectorsFormat


@checked_slot
@dataclass(frozen=True, slots=True)
class ComparingSlot:
    """A slot to which tasks write as they do in a merge, but which compares their bytes with the finished output."""

    tensor: str
    """Name of the output tensor."""
    source: Source
    """The tensor in the finished output."""

    def write(self, start: int, data: Bytes) -> None:
        """Compare bytes that were computed again with those of the output, from element `start` on.

        Raises
        ------
        VerificationError
            The bytes differ; the message names the first element that does.

        """
        stop = start + data.size // self.source.itemsize
        with _reading_the_output():
            self.source.populate(start, stop)  # an error for pages that cannot be read, which else kill the process
            found = self.source.read(start, stop)
        if not same_bytes(found, data):
            first = int(np.flatnonzero(found != data)[0]) // self.source.itemsize + start
            raise VerificationError(
                f"tensor {self.tensor!r} computed again differs from the output at element {first}",
                "the same bits",
                "make the output again; if that does not help, report this as a defect",
            )
        del found
        self.source.release(start, stop)

    def file_place(self, start: int, stop: int) -> None:
        """Give None, because nothing is written to a file."""


_CHECK_DISK = "check the disk, or make the output again"


@contextlib.contextmanager
def _reading_the_output() -> Iterator[None]:
    """Take every error about a file for the output's, and not for an input's or a user's recipe's.

    Raises
    ------
    VerificationError
        Such an error came.

    """
    try:
        yield
    except (CheckpointError, RecipeError) as error:
        raise VerificationError(error.what, error.expected, _CHECK_DISK) from error
    except OSError as error:
        raise VerificationError(
            f"{error.filename} cannot be read ({error.strerror})", "the files of the output", _CHECK_DISK
        ) from error


@shows_progress("computing again")
def recompute(
    output: str | os.PathLike[str],
    fraction: float,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    seed: int = 0,
    *,
    progress: bool | events.Listener = False,
) -> int:
    """Compute a random sample of an output's tasks again from its inputs, and compare every bit with the output.

    Parameters
    ----------
    output
        A folder that `merge` or `convert` has written; its inputs must still be at the same places.
    fraction
        Share of the tasks to compute, above 0 and at most 1; at least one task is computed.
    run
        Memory limit and workers.
    listen
        Receives progress, on the calling thread.
    seed
        Seed of the sample.
    progress
        True shows a bar with bytes done, rate and time left, in a terminal or a notebook. A function receives every
        event, as `listen` does.

    Returns
    -------
    int
        Bytes of output compared.

    Raises
    ------
    VerificationError
        A bit differs, or the inputs are not those from which the output was made.
    CheckpointError
        An input is missing or damaged.

    Examples
    --------
    >>> recompute("merged", fraction=1.0)
    74880

    """
    output, run, began = expand_home(output), run or RunOptions(), time.monotonic()
    manifest = read_manifest(output)
    try:
        plan = plan_again(output, manifest)
    except DovetailError:
        raise
    except DEFECTS as error:
        raise manifest_error(output, error) from None
    with _reading_the_output():
        slots = _slots(plan, plan.options.format.open(output))
    todo = _sample(plan, fraction, seed)
    budget, _ = prepare(plan, run, listen, compared_bytes=_compared_bytes(plan, slots))
    plan = plan.frugal() if budget.frugal else plan
    compared, total_bytes = 0, _output_bytes(plan, todo)
    ahead_bytes = plan.read_ahead_bytes if run.executor is None else 0
    with (
        held(),
        open_session(budget, ahead_bytes) as session,
        open_executor(run.executor, budget.workers) as pool,
    ):
        scheduler = Scheduler(pool, session, plan, lambda tensor: slots[tensor], budget.open_jobs, budget.held_bytes)
        with contextlib.closing(scheduler.run(todo)) as finished:
            for record in finished:
                compared += record.written_bytes
                seconds = time.monotonic() - began
                listen(events.Progress(compared, total_bytes, seconds, resident_bytes()))
    return compared


def _compared_bytes(plan: Plan, slots: Sequence[ComparingSlot]) -> int:
    """Give the most memory that reading the bytes takes with which a task's are compared."""
    most = 0
    for tensor, slot in zip(plan.tensors, slots, strict=True):
        size = min(tensor.length, tensor.chunking.chunk_elements) * tensor.dtype.itemsize
        most = max(most, size * (2 if slot.source.copies else 1) + slot.source.scratch_bytes)
    return most + PAGE_SLACK_BYTES


def _output_bytes(plan: Plan, todo: Sequence[tuple[Job, list[int]]]) -> int:
    """Count the bytes of output that chosen tasks compute."""
    pieces = (piece for job, positions in todo for position in positions for piece in job.tasks[position])
    return sum(plan.output_bytes(piece) for piece in pieces)


def _slots(plan: Plan, written: Checkpoint) -> list[ComparingSlot]:
    """Find every tensor of a plan in the finished output.

    Raises
    ------
    VerificationError
        The output has other tensors than the plan, or a tensor of another dtype or shape.

    """
    expected = {tensor.name: (tensor.dtype.name, tensor.shape) for tensor in plan.tensors}
    found = {name: (info.dtype.name, info.shape) for name, info in written.tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise VerificationError(
                f"tensor {name!r} of {written.path} is {_described(found.get(name))}",
                f"{_described(expected.get(name))}, as its recipe gives",
                "make the output again",
            )
    return [ComparingSlot(tensor.name, written.tensors[tensor.name].source) for tensor in plan.tensors]


def _described(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "not there" if kind is None else f"{kind[0]} of shape {list(kind[1])}"


def _sample(plan: Plan, fraction: float, seed: int) -> list[tuple[Job, list[int]]]:
    """Choose tasks at random, and give each job with the positions of its chosen tasks, in the order of the plan."""
    everything = [(index, position) for index, job in enumerate(plan.jobs) for position in range(len(job.tasks))]
    count = min(len(everything), max(1, round(fraction * len(everything))))
    chosen: dict[int, list[int]] = {}
    for index, position in sorted(random.Random(seed).sample(everything, count)):
        chosen.setdefault(index, []).append(position)
    return [(plan.jobs[index], positions) for index, positions in chosen.items()]


def plan_again(output: Path, manifest: Mapping[str, Any]) -> Plan:
    """Make the plan of a finished merge again.

    Raises
    ------
    VerificationError
        The output was made by another version of the maths, or its inputs have changed.

    """
    if manifest["maths_version"] != MATHS_VERSION:
        raise VerificationError(
            f"{output} was made by maths version {manifest['maths_version']}",
            f"version {MATHS_VERSION} of this program",
            "recompute with the version of Dovetail that made the output",
        )
    if manifest["recipe"]["merge_method"] in (EXTRACT_LORA.name, MOE.name, MODULES.name):
        raise VerificationError(
            f"{output} is an extracted adapter, a mixture of experts or a module, which no recipe describes in full",
            "the output of a merge or a conversion",
            "verify without --recompute, or make it again",
        )
    with _reading_the_output():
        record = read_record(output, manifest[SELF_CHECKSUM])
    inputs = manifest["inputs"] if record is None else record.inputs
    options, locations = _options(manifest), _locations(inputs, manifest)
    if manifest["recipe"]["merge_method"] == CONVERT.name:
        plan = plan_from(locations[0], manifest["models"][0], options)
    elif isinstance(options.format, VectorsFormat):
        plan = plan_store(_recipe(output), options, locations).plan
    else:
        if fault := unlike_a_file(output / RECIPE_NAME):
            raise VerificationError(
                f"{output / RECIPE_NAME} {fault}", "the recipe of the output", "make the output again"
            )
        plan = make_plan(_recipe(output), options, locations)
    _check_inputs(plan, inputs, manifest)
    return plan


def _recipe(output: Path) -> Recipe:
    """Read the recipe of a finished merge."""
    with _reading_the_output():
        return load_stages(output / RECIPE_NAME)[-1].recipe


def _options(manifest: Mapping[str, Any]) -> PlanOptions:
    """Read the options of a finished merge from its manifest."""
    said = manifest["options"]
    return PlanOptions(
        format=written_format(manifest),
        dtype=said["dtype"],
        round_float32=said.get("round_float32", False),
        seed=said["seed"],
        keep_nonfinite=said["nonfinite"] == "keep",
        copy_tokenizer=said.get("copy_tokenizer", True),
        model_card=said.get("model_card", True),
        card_pictures=said.get("card_pictures", False),
        allow_partial=True,  # whether it should be merged is no question any more
    )


def _locations(inputs: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> list[Location]:
    """Read the places of a finished merge's inputs from their record, or else from the names in its manifest.

    Raises
    ------
    VerificationError
        An input was the result of a stage, and has been removed since.

    """
    locations = [
        Location(entry["checkpoint"], entry["adapter"]["folder"] if "adapter" in entry else None, entry.get("hub", ""))
        for entry in inputs
    ]
    for entry in manifest.get("stages", ()):
        for location in locations:
            if Path(location.address).name == entry["name"] and not Path(location.address).exists():
                raise VerificationError(
                    f"the result of the stage {entry['name']!r}, {location.address}, is gone",
                    "the results of all stages",
                    "merge again with --stages DIR to keep them, or verify without --recompute",
                )
    return locations


def _check_inputs(plan: Plan, inputs: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> None:
    """Check that checkpoints, adapters and tokenizers are those that the merge read.

    Raises
    ------
    VerificationError
        One of them has changed since, or another distribution provides the method.

    """
    if plug_in_entry(plan.method) != {key: manifest[key] for key in ("plug_in",) if key in manifest}:
        was = manifest.get("plug_in")
        raise VerificationError(
            f"the method {plan.method.name} is that of {plan.method.plug_in or 'Dovetail'}",
            f"that of {PlugIn(**was) if was else 'Dovetail'}, by which this output was made",
            "install that version, or verify without --recompute",
        )
    for found, entry in zip(input_entries(plan.checkpoints, ()), inputs, strict=True):
        pairs = [(entry["checkpoint"], found["files"], entry["files"])]
        if "adapter" in found:
            pairs.append((entry["adapter"]["folder"], found["adapter"]["files"], entry["adapter"]["files"]))
        for place, files, recorded in pairs:
            etags = [{file.get("etag") for file in each if "etag" in file} for each in (files, recorded)]
            if portable_files(files) != portable_files(recorded) or (all(etags) and etags[0] != etags[1]):
                raise VerificationError(
                    f"input {place} has changed since it was read",
                    "the files that were read",
                    "restore them, or verify without --recompute",
                )
    if manifest.get("vocabulary", {}).get("inputs", []) != (plan.vocabulary.inputs() if plan.vocabulary else []):
        raise VerificationError(
            "the models' tokenizer files have changed since the merge",
            "the files that were merged",
            "restore them, or verify without --recompute",
        )
