"""Making a mixture of experts of dense models: the function behind ``dovetail moe``.

Routers, the only tensors that no model has, are computed first and kept beside the output. What follows is an ordinary
plan: copies under new names. Memory, journal, staging and checksums are those of every merge.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out
from dovetail.engine.actions.convert import HEADER_METADATA
from dovetail.engine.actions.finished import find_finished, tell_finished
from dovetail.engine.actions.given_manifest import gives_manifest
from dovetail.engine.actions.parts import refuse_part
from dovetail.engine.actions.spared import checkpoint_paths
from dovetail.engine.methods.moe import MOE
from dovetail.engine.output.lineage import card_head, hub_names
from dovetail.engine.output.manifest import MANIFEST_NAME, build_manifest, options_entry, write_manifest
from dovetail.engine.output.markdown import block, cell, code
from dovetail.engine.output.request import Part, Request
from dovetail.engine.output.side_files import inherited_files, side_files_left, write_side_files
from dovetail.engine.output.staging import discard, discard_unused, is_bare, stages_path
from dovetail.engine.output.target import check_target
from dovetail.engine.planning.assembly import assemble
from dovetail.engine.planning.experts.architectures import moe_config
from dovetail.engine.planning.experts.plan import Mixture, plan_mixture, planned_tensors
from dovetail.engine.planning.identity import input_identity
from dovetail.engine.planning.locations import locate, open_location
from dovetail.engine.planning.model_config import is_untied, set_tie
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.progress import shows_progress
from dovetail.engine.recipe import Recipe, RecipeSource
from dovetail.engine.recipe.dumping import dump
from dovetail.engine.recipe.moe import load_moe_recipe
from dovetail.engine.recipe.schema import InputModel
from dovetail.engine.recipe.unused import notes, refuse_unused
from dovetail.engine.run.budget import default_limit_bytes
from dovetail.engine.run.gates import gate_values, hardly_told_apart
from dovetail.engine.run.lock import locked
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.records import RecordTable
from dovetail.engine.text import short_name
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.dtypes import to_numpy
from dovetail.io.errors import CheckpointError
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.files.durable import replace_durably
from dovetail.io.files.home import expand_home
from dovetail.io.files.interrupts import held
from dovetail.io.formats.header import build_header
from dovetail.io.formats.safetensors_reader import read_file

_GATES = "gates.safetensors"
_KEY = "dovetail"


@gives_manifest
@shows_progress("making experts")
def make_moe(
    recipe: RecipeSource,
    output: str | os.PathLike[str],
    options: PlanOptions | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    *,
    progress: bool | events.Listener = False,
) -> dict[str, Any]:
    """Make one mixture of experts of dense models, as a recipe says, and write it into a folder.

    The same call after an interruption continues where the journal ends.

    Parameters
    ----------
    recipe
        A recipe as mergekit-moe reads it: a YAML file, its text, or a dict.
    output
        Folder to make; it appears under its name only when it is complete.
    options
        Shard size and seed of random routers; a dtype counts for that of the recipe; `strict` refuses keys without
        effect.
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
        A dict: the manifest but for its ``tensors``; ``moe`` in it says which model became which expert.

    Raises
    ------
    DovetailError
        One of the tree in `dovetail.engine.errors` and `dovetail.io.errors`.

    Examples
    --------
    >>> experts = [{"source_model": "math"}, {"source_model": "code"}]
    >>> manifest = make_moe({"base_model": "base", "gate_mode": "random", "experts": experts}, "mixture")
    >>> manifest["moe"]["architecture"]
    'Mixtral'

    """
    started, output, run, options = time.monotonic(), expand_home(output), run or RunOptions(), options or PlanOptions()
    refuse_part(run, "a mixture of experts")
    asked = load_moe_recipe(recipe)
    if options.strict:
        refuse_unused([asked])
    if options.dtype is not None:
        asked = asked.model_copy(update={"dtype": options.dtype}).with_origin(asked.origin)
    checkpoints = {str(ref): open_location(locate(ref, asked.origin.folder, listen)) for ref in asked.references()}
    mixture = plan_mixture(asked, checkpoints)
    identity, folder = _identity(mixture, options), stages_path(output)
    request, spared = _request(mixture, identity, options), list(checkpoint_paths(checkpoints.values()))
    if (manifest := find_finished(output, request, spared, run)) is not None:
        if _stored_gates(folder, identity) is not None or is_bare(folder):
            discard_unused(folder)
        tell_finished(output, request.noun, manifest, run, listen, started)
        return manifest
    check_target(output, spared, overwrite=run.overwrite)
    with held(), locked(folder, listen):
        for warning in _warnings(mixture):
            listen(events.Notice("warning", warning))
        try:
            made = _gates(mixture, folder, identity, options, run, listen)
        except BaseException:  # nothing was done that would be lost
            discard(folder)
            raise
        plan = _plan(mixture, made, options)
        manifest = carry_out(plan, output, run, listen, started=started, complete=_completion(mixture, identity))
        discard(folder)
    return manifest


def _identity(mixture: Mixture, options: PlanOptions) -> str:
    """Hash all that decides the output."""
    inputs = input_identity(mixture.checkpoints.values())
    format = options.format.identity() | options.small_files()
    content = [dump(mixture.recipe, defaults=True), options.seed, format, inputs]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _request(mixture: Mixture, identity: str, options: PlanOptions) -> Request:
    """Give what is asked for, so that it can be compared with a mixture that is there."""
    asked, leave = dump(mixture.recipe), side_files_left(options)
    return Request(
        noun="mixture",
        hash=identity,
        parts=(
            Part("the recipe", ("moe", "recipe"), asked),
            Part("the options", ("options",), options_entry(_plan_options(options))),
        ),
        checkpoints=tuple(mixture.checkpoints.values()),
        side_files=lambda: {name: hex_checksum(data) for name, data in inherited_files(mixture.base, leave)},
    )


def _plan_options(options: PlanOptions) -> PlanOptions:
    """Give the options of the plan that puts the mixture together."""
    return PlanOptions(
        options.format,
        seed=options.seed,
        keep_nonfinite=True,
        copy_tokenizer=options.copy_tokenizer,
        model_card=options.model_card,
    )


def _warnings(mixture: Mixture) -> list[str]:
    """Say what a person should know."""
    count, found = len(mixture.recipe.experts), [*notes(mixture.recipe.unused, mixture.recipe.origin)]
    if count & (count - 1):
        found.append(f"{count} experts are no power of two: llama.cpp cannot run such a model.")
    if "auto_map" in mixture.config:
        found.append(
            f"{mixture.recipe.base_model} names code of its own (auto_map), which the mixture cannot run: what that "
            f"computes otherwise than a plain {mixture.config.get('model_type')} model is lost."
        )
    if count > 1 and len({expert.source_model for expert in mixture.recipe.experts}) == 1:
        found.append("All experts are the same model: until it is trained, the mixture computes just what that does.")
    return found


def _gates(
    mixture: Mixture, folder: Path, identity: str, options: PlanOptions, run: RunOptions, listen: events.Listener
) -> Checkpoint:
    """Give the routers that an earlier run has left, or compute them and store them durably."""
    if (found := _stored_gates(folder, identity)) is not None:
        return found
    path = folder / _GATES
    values = gate_values(mixture, options.seed, run.memory_bytes or default_limit_bytes())
    if (alike := hardly_told_apart(values, mixture)) and mixture.recipe.needs_prompts:
        text = f"The routers of {len(alike)} layers, such as {alike[0]}, hardly tell the experts apart: use prompts "
        listen(events.Notice("warning", text + "that are less alike."))
    stored = {name: np.ascontiguousarray(each.astype(to_numpy(mixture.dtype))) for name, each in values.items()}
    header = build_header(((name, mixture.dtype, each.shape) for name, each in stored.items()), {_KEY: identity})
    replace_durably(path, (header, *(each.tobytes() for each in stored.values())))
    return read_file(path)


def _stored_gates(folder: Path, identity: str) -> Checkpoint | None:
    """Give the routers of this mixture that an earlier run has left; None if there are none."""
    if not (folder / _GATES).exists():
        return None
    try:
        found = read_file(folder / _GATES)
    except CheckpointError:
        return None
    return found if found.metadata.get(_KEY) == identity else None


def _plan(mixture: Mixture, made: Checkpoint, options: PlanOptions) -> Plan:
    """Lower the mixture to an ordinary plan."""
    asked = mixture.recipe
    sources = dict.fromkeys(expert.source_model for expert in (*asked.experts, *asked.shared_experts))
    recipe = Recipe(
        merge_method=MOE.name,
        base_model=asked.base_model,
        models=tuple(InputModel(model=source) for source in sources),
        dtype=asked.dtype,
    ).with_origin(asked.origin)
    return assemble(
        recipe=recipe,
        options=_plan_options(options),
        method=MOE,
        checkpoints=(*mixture.checkpoints.values(), made),
        base=mixture.base,
        models=tuple(mixture.checkpoints),
        tensors=planned_tensors(mixture, made),
        warnings=tuple(note for each in mixture.checkpoints.values() for note in each.notes),
        metadata=HEADER_METADATA,
    )


def _completion(mixture: Mixture, identity: str) -> Any:
    """Give the function that writes the small files and the manifest."""
    asked = mixture.recipe

    def complete(plan: Plan, table: RecordTable, staging: Path) -> dict[str, Any]:
        config = moe_config(mixture.architecture, mixture.config, len(asked.experts), asked.experts_per_token)
        if is_untied(mixture.base):
            set_tie(config, tie=False)
        for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]:
            config[key] = mixture.dtype.torch_name
        side_files = write_side_files(plan, staging, _card(mixture), config)
        manifest = build_manifest(plan, table, side_files, inputs=-1)  # the last are the routers
        manifest["moe"] = {
            "architecture": mixture.architecture.name,
            "recipe": dump(asked),
            "made": sorted(mixture.made_shapes()),
        }
        write_manifest(staging, manifest, plan, table, identity)
        return manifest

    return complete


def _card(mixture: Mixture) -> str:
    """Write the README.md: which models are which experts, and how tokens are sent to them."""
    asked = mixture.recipe
    names = hub_names(mixture.checkpoints.values())
    lines = card_head(names, "merge", {"library_name": "transformers"}, "dovetail", "merge", "moe")
    lines += ["", "# Mixture of experts", ""]
    lines += [
        f"A {mixture.architecture.name} model made with Dovetail. All but the experts is "
        f"{code(short_name(str(asked.base_model)))}; each token is sent to {asked.experts_per_token} of "
        f"{len(asked.experts)} experts, by routers made by `{asked.gate_mode}`.",
        "",
        "| expert | model |",
        "|---|---|",
    ]
    lines += [f"| {index} | {cell(short_name(str(each.source_model)))} |" for index, each in enumerate(asked.experts)]
    lines += [f"| shared | {cell(short_name(str(each.source_model)))} |" for each in asked.shared_experts]
    lines += [
        "",
        "## Recipe",
        "",
        *block(asked.origin.text.strip(), "yaml"),
        "",
        f"Checksums: `{MANIFEST_NAME}`.",
        "",
    ]
    return "\n".join(lines)
