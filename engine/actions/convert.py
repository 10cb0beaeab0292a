"""Converting a checkpoint to another format, dtype or number of shards: the functions behind ``dovetail convert``.

A conversion is planned and carried out as a merge of one model. Tensors are copied byte for byte, NaN included. If a
dtype is given, floating-point tensors are rounded to it once, and integers stay as they are.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out
from dovetail.engine.actions.finished import find_finished, tell_finished
from dovetail.engine.actions.given_manifest import gives_manifest
from dovetail.engine.actions.parts import refuse_part
from dovetail.engine.actions.spared import input_paths
from dovetail.engine.errors import ConversionsFailedError, InterruptedMergeError, RecipeError, describe
from dovetail.engine.methods.convert import CONVERT, conversion
from dovetail.engine.methods.copy import Copy
from dovetail.engine.output.document import Manifest
from dovetail.engine.output.request import plan_request
from dovetail.engine.planning.assembly import assemble
from dovetail.engine.planning.grid import chunk_elements
from dovetail.engine.planning.islands import Islands, find_islands
from dovetail.engine.planning.locations import Location, locate, open_location
from dovetail.engine.planning.model_config import is_untied
from dovetail.engine.planning.opened import requested_dtype
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.planning.work import Input, stored_bytes
from dovetail.engine.progress import shows_progress
from dovetail.engine.recipe import ModelRef, Recipe
from dovetail.engine.recipe.schema import InputModel
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.text import short_name
from dovetail.io.checkpoint import TensorInfo, only_inputs
from dovetail.io.dtypes import DType
from dovetail.io.errors import MissingFileError
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.home import absolute_path, expand_home
from dovetail.io.files.smallfile import is_named
from dovetail.io.output_format import Chunking
from dovetail.io.remote.addresses import refuse_secrets

HEADER_METADATA = {"format": "pt"}
"""Metadata that loaders expect in a safetensors header; metadata of the source takes precedence."""


def parse_source(source: str | os.PathLike[str]) -> ModelRef:
    """Read the name of a checkpoint: a path if a file or folder has that name, else any reference that recipes accept.

    Raises
    ------
    UnsupportedError
        The name is an address with a password or a signature, which messages must not show.
    MissingFileError
        The system cannot tell whether there is a file of that name.

    """
    text = os.fspath(source)
    path = absolute_path(text)
    with only_inputs():
        if is_named(path):
            return ModelRef(path=str(path))
    for part in (text, *text.split("+")):
        refuse_secrets(part)
    try:
        return ModelRef.model_validate(text)
    except ValueError:  # the message is about recipes; opening the path will raise a better one
        return ModelRef(path=text)


def source_name(ref: ModelRef) -> str:
    """Name a source's output folder among several outputs: the last part of its path, without the suffix of a file."""
    name = short_name(ref.path).removesuffix(".safetensors").removesuffix(".zarr")
    return f"{name}+{short_name(ref.lora)}" if ref.lora else name


def plan_conversion(
    source: str | os.PathLike[str] | ModelRef,
    options: PlanOptions | None = None,
    download: events.Listener | None = None,
) -> Plan:
    """Make the plan of a conversion from the checkpoint's headers.

    Parameters
    ----------
    source
        The checkpoint.
    options
        The options that decide the output; without a dtype every tensor keeps its dtype.
    download
        As for `dovetail.engine.planning.builder.make_plan`.

    Raises
    ------
    RecipeError
        An option is wrong.
    CheckpointError
        The checkpoint is bad.

    """
    ref = source if isinstance(source, ModelRef) else parse_source(source)
    return plan_from(find_source(ref, download), str(ref), options or PlanOptions())


def find_source(ref: ModelRef, download: events.Listener | None = None) -> Location:
    """Find the place of a checkpoint that a user named; raises as `locate` does, but with no word of a recipe."""
    try:
        return locate(ref, download=download)
    except MissingFileError as error:
        if "recipe" not in error.action:
            raise
        raise MissingFileError(f"there is no checkpoint at {ref}", "a folder or a file", "check the path") from None


@collector_paused()
def plan_from(location: Location, label: str, options: PlanOptions) -> Plan:
    """Plan the conversion of the checkpoint at a place; the manifest and the model card call it `label`."""
    options = replace(options, keep_nonfinite=True)
    dtype = requested_dtype(options.dtype)
    checkpoint = open_location(location)
    stored = ((info, name, [(0, info)]) for name, info in checkpoint.tensors.items())
    islands = find_islands(stored, (checkpoint,), dtype, rounded=options.round_float32)
    tensors = tuple(_planned(info, label, dtype, islands) for info in checkpoint.tensors.values())
    warnings = [*checkpoint.notes, *islands.warnings]
    narrowed = Counter(
        f"{info.dtype} tensors are stored as {dtype}"
        for info in checkpoint.tensors.values()
        if dtype is not None and info.dtype.mergeable and info.dtype.itemsize > dtype.itemsize == 1
    )
    warnings += [f"{count} {text}, with few bits and without scales." for text, count in narrowed.items()]
    return assemble(
        recipe=Recipe(merge_method=CONVERT.name, models=(InputModel(model=ModelRef(path=label)),)),
        options=options,
        method=CONVERT,
        checkpoints=(checkpoint,),
        base=None,
        models=(label,),
        tensors=tensors,
        tie=False if is_untied(checkpoint) else None,
        warnings=tuple(warnings),
        metadata={**HEADER_METADATA, **checkpoint.metadata},
    )


def _planned(info: TensorInfo, label: str, wanted: DType | None, islands: Islands) -> PlannedTensor:
    """Plan one tensor: copied, or stored in another dtype."""
    dtype = islands.dtype(info.name, wanted if info.dtype.mergeable else None, info.output_dtype)
    element_bytes = info.dtype.itemsize + dtype.itemsize
    problem = None
    if dtype != info.dtype:
        problem = conversion(info.name, info.shape, info.dtype.kernel_code, dtype.kernel_code)
    code = -1 if problem is None else info.dtype.kernel_code
    return PlannedTensor(
        name=info.name,
        shape=info.shape,
        length=info.length,
        dtype=dtype,
        program=Copy(compared=False) if problem is None else CONVERT.program(problem),
        problem=problem,
        base=None,
        models=(Input(info.source, code, label, info.name, stored_bytes(info, info.length)),),
        order=(0,),
        element_bytes=element_bytes,
        chunking=Chunking(chunk_elements(element_bytes, 1)),
    )


@gives_manifest
@shows_progress("converting")
def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: PlanOptions | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    *,
    progress: bool | events.Listener = False,
) -> dict[str, Any]:
    """Convert one checkpoint to another format, dtype or number of shards.

    After an interruption, the same call continues the conversion. If the output is complete, the call does nothing.

    Parameters
    ----------
    source
        The checkpoint: anything that a recipe can name as a model.
    output
        Folder to make; it appears under its name only when it is complete.
    options, run, listen, progress
        As for `dovetail.engine.merge`; without a dtype every tensor keeps its dtype.

    Returns
    -------
    Manifest
        A dict: the manifest without its ``tensors``.

    Raises
    ------
    CheckpointError
        The checkpoint is bad.
    RecipeError
        An option is wrong.
    MemoryLimitError, DiskSpaceError
        The conversion does not fit into the memory limit or onto the disk.
    OutputError
        The output folder is refused because files would be lost, or the output cannot be written.
    InterruptedMergeError
        The conversion was interrupted and can be continued.

    Examples
    --------
    >>> manifest = convert("base", "base-in-zarr", PlanOptions(ZarrFormat(codec="zstd")))
    >>> manifest["output_format"]
    'zarr'

    """
    started, output, run = time.monotonic(), expand_home(output), run or RunOptions()
    refuse_part(run, "a conversion")
    plan = plan_conversion(source, options, listen)
    if (manifest := find_finished(output, plan_request(plan), input_paths(plan), run)) is not None:
        tell_finished(output, plan.noun, manifest, run, listen, started)
        return manifest
    return carry_out(plan, output, run, listen, started=started)


def outputs(sources: Sequence[str], target: Path) -> dict[str, Path]:
    """Choose the output folder of each source: the target for a single source, else one folder each inside the target.

    Raises
    ------
    RecipeError
        Two sources would have the same output.

    """
    if len(sources) == 1:
        return {sources[0]: target}
    found: dict[str, Path] = {}
    taken: dict[str, str] = {}
    for source in sources:
        name = source_name(parse_source(source))
        if name in taken:
            raise RecipeError(
                f"{taken[name]} and {source} would both be converted to {target / name}",
                "sources of different names",
                "convert them one by one, each into another folder",
            )
        taken[name] = source
        found[source] = target / name
    return found


def convert_all(
    sources: Sequence[str],
    target: str | os.PathLike[str],
    options: PlanOptions | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
) -> dict[str, Manifest]:
    """Convert checkpoints one after another; after one has failed, the others are still converted.

    Parameters
    ----------
    sources
        The checkpoints.
    target
        The output folder of a single checkpoint; for several, the folder in which each gets a folder named after it.
    options, run, listen
        As for `convert`.

    Returns
    -------
    dict
        The manifest of each output, without its ``tensors``, by source.

    Raises
    ------
    ConversionsFailedError
        Some of several conversions have failed; `listen` has received the reason for each.
    DovetailError
        As `convert` raises it, if there is a single source.

    """
    places = outputs(sources, expand_home(target))
    if len(places) == 1:
        return {source: convert(source, place, options, run, listen) for source, place in places.items()}
    manifests, failed, code = {}, [], 0
    for source, place in places.items():
        try:
            manifests[source] = convert(source, place, options, run, listen)
        except (InterruptedMergeError, MemoryError):
            raise
        except Exception as error:  # even a defect that one source brings to light must not stop the others
            text, exit_code = describe(error)
            listen(events.Failed(source=source, output=str(place), text=text, exit_code=exit_code))
            failed.append(source)
            code = code or exit_code
    if failed:
        raise ConversionsFailedError(len(places), tuple(failed), code)
    return manifests
