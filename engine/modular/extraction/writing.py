"""Writing a module as an ordinary plan of copies: memory, journal, staging and checksums are those of every merge."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out
from dovetail.engine.actions.finished import find_finished, tell_finished
from dovetail.engine.actions.parts import refuse_part
from dovetail.engine.actions.spared import checkpoint_paths
from dovetail.engine.methods.copy import Copy
from dovetail.engine.methods.modules import MODULES
from dovetail.engine.modular.extraction.document import MODULE_NAME, ModuleDescription, description_to_json
from dovetail.engine.output.manifest import build_manifest, write_manifest
from dovetail.engine.output.request import Part, Request
from dovetail.engine.planning.assembly import assemble
from dovetail.engine.planning.grid import chunk_elements
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.planning.work import Input
from dovetail.engine.recipe import ModelRef, Recipe
from dovetail.engine.recipe.schema import InputModel
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.records import RecordTable
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.files.durable import write_durably
from dovetail.io.formats.safetensors_format import SafetensorsFormat
from dovetail.io.output_format import Chunking


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """A module that is to be written."""

    describe: Callable[[], ModuleDescription]
    """Gives its description; called only if the module is not there yet, because digests take long."""
    identity: Any
    """JSON value of all that decides its bytes besides the inputs' files."""
    tensors: Mapping[str, TensorInfo]
    """Its tensors, of which nothing is read yet."""
    labels: Mapping[str, str]
    """For each tensor, the input that it is read from, for people."""
    inputs: tuple[str, ...]
    """What it is made of, as the user named it."""
    checkpoints: tuple[Checkpoint, ...]
    """The same, opened."""
    warnings: tuple[str, ...] = ()
    """What a person should know."""


def write_module(wanted: Wanted, output: Path, run: RunOptions, listen: events.Listener) -> dict[str, Any]:
    """Write a module into a folder, or the rest of it if an earlier run was interrupted.

    Returns
    -------
    dict
        The manifest without its ``tensors``; ``module`` in it is what ``modules.json`` says but for the network.

    Raises
    ------
    DovetailError
        As for every output.

    """
    started = time.monotonic()
    refuse_part(run, "a module")
    plan = _plan(wanted)
    request = Request(
        noun="module",
        hash=plan.hash,
        parts=(
            Part("the module", ("wanted",), wanted.identity),
            Part("the parents", ("recipe",), plan.recipe.to_json()),
        ),
        checkpoints=wanted.checkpoints,
    )
    if (manifest := find_finished(output, request, list(checkpoint_paths(wanted.checkpoints)), run)) is not None:
        tell_finished(output, request.noun, manifest, run, listen, started)
        return manifest
    description = description_to_json(wanted.describe())

    def complete(copying: Plan, table: RecordTable, staging: Path) -> dict[str, Any]:
        text = (json.dumps(description, indent=1) + "\n").encode()
        write_durably(staging / MODULE_NAME, text)
        files = {MODULE_NAME: {"size_bytes": len(text), "checksum": hex_checksum(text)}}
        manifest = build_manifest(copying, table, files)
        manifest["wanted"] = wanted.identity
        manifest["module"] = {key: description[key] for key in ("classes", "parents")}
        write_manifest(staging, manifest, copying, table, plan.hash)
        return manifest

    return carry_out(plan, output, run, listen, started=started, complete=complete)


def _plan(wanted: Wanted) -> Plan:
    """Plan the copying of every tensor, as a recipe that no file holds."""
    text = json.dumps(wanted.identity, sort_keys=True)
    models = tuple(InputModel(model=ModelRef(path=name)) for name in wanted.inputs)
    return assemble(
        recipe=Recipe(merge_method=MODULES.name, models=models),
        options=PlanOptions(SafetensorsFormat(), keep_nonfinite=True),
        method=MODULES,
        checkpoints=wanted.checkpoints,
        base=None,
        models=wanted.inputs,
        tensors=tuple(_copied(name, info, wanted.labels[name], wanted.inputs) for name, info in wanted.tensors.items()),
        warnings=wanted.warnings,
        # The header is part of the plan's hash, which must tell which rows are copied: shapes alone do not.
        metadata={"format": "pt", "dovetail_module": hashlib.sha256(text.encode()).hexdigest()},
    )


def _copied(name: str, info: TensorInfo, label: str, inputs: Sequence[str]) -> PlannedTensor:
    element_bytes = 2 * info.dtype.itemsize
    return PlannedTensor(
        name=name,
        shape=tuple(info.shape),
        length=info.length,
        dtype=info.dtype,
        program=Copy(compared=False),
        problem=None,
        base=None,
        models=(Input(info.source, -1, label, info.name),),
        order=(inputs.index(label),),
        element_bytes=element_bytes,
        chunking=Chunking(chunk_elements(element_bytes, 1)),
    )


def unused_tensors(checkpoint: Checkpoint, used: Sequence[str]) -> tuple[str, ...]:
    """Say which tensors of a parent its network does not use, so that no module can have them."""
    left = sorted(set(checkpoint.tensors) - set(used))
    if not left:
        return ()
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return (f"{checkpoint.path} has tensor {left[0]!r}{more}, which its network does not use: modules do not have it.",)
