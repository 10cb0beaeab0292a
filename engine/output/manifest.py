"""The manifest: the inputs, options and output files of a merge, and the statistics and checksums of every tensor.

The manifest depends on the recipe, the options and the inputs alone, so that whoever merges the same writes the same
manifest, byte for byte: on whatever machine, at whatever time, in one run or several. `dovetail.engine.output.inputs`
keeps apart what differs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from dovetail.engine.methods.method import plug_in_entry
from dovetail.engine.output.inputs import InputRecord, input_entries, portable, portable_files, write_record
from dovetail.engine.planning.plan import MATHS_VERSION, Plan, PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.recipe import ModelRef, Recipe
from dovetail.engine.recipe.schema import InputModel
from dovetail.engine.run.records import RecordTable, chunk_checksums
from dovetail.engine.text import short_name
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.files.durable import write_durably

MANIFEST_NAME = "dovetail_manifest.json"
"""File name of the manifest in the output folder."""

SELF_CHECKSUM = "self_checksum"
"""Key of the checksum, in the manifest, of all text before it."""

FORMAT_VERSION = 1
"""Version of the manifest's structure; it changes whenever the structure does."""

_NOT_PLANNED = ("plan_hash", "dovetail_version", "side_files", "totals", "extraction")
"""Keys of a manifest that say what came out, or by which release."""


def build_manifest(
    plan: Plan,
    table: RecordTable,
    side_files: Mapping[str, Mapping[str, Any]],
    earlier: Sequence[Mapping[str, Any]] = (),
    inputs: int | None = None,
) -> dict[str, Any]:
    """Describe a finished merge, except for the single tensors, which `manifest_parts` adds.

    Parameters
    ----------
    plan
        The plan that was carried out.
    table
        The rows of all chunks.
    side_files
        Size and checksum of every output file that is not a shard, by name.
    earlier
        The entries, made by `stage_entry`, of the stages that the merge uses results of.
    inputs
        How many of the plan's checkpoints are inputs; None for all. Those after them are there for the time of the
        work alone.

    Returns
    -------
    dict
        A JSON object, in which ``plan_hash`` is still to be filled in by `write_manifest`. Checksums are XXH3-64 in
        hexadecimal; statistics are described in `tensor_statistics`.

    """
    return {
        "format": "dovetail-manifest",
        "format_version": FORMAT_VERSION,
        "dovetail_version": importlib.metadata.version("dovetail"),
        "maths_version": MATHS_VERSION,
        "plan_hash": "",
        **plug_in_entry(plan.method),
        "recipe": asked_recipe(plan).to_json(),
        "options": options_entry(plan.options),
        "models": [str(item.model) for item in asked_recipe(plan).models] if plan.is_conversion else list(plan.models),
        "inputs": portable(_inputs(plan)[:inputs]),
        **({"stages": [{**entry, "inputs": portable(entry["inputs"])} for entry in earlier]} if earlier else {}),
        **_vocabulary(plan),
        "checksum": "xxh3-64",
        "output_format": plan.options.format.name,
        "shards": plan.options.format.shard_entries(plan.layout),
        "side_files": {name: dict(side_files[name]) for name in sorted(side_files)},
        "totals": total_statistics(plan, table),
    }


def asked_recipe(plan: Plan) -> Recipe:
    """Give the recipe as anybody can have it: a conversion, which nobody wrote one for, names its source shortly."""
    if not plan.is_conversion or plan.checkpoints[0].remote or not plan.models[0].startswith("/"):
        return plan.recipe
    short = "+".join(short_name(part) for part in plan.models[0].split("+/"))
    return plan.recipe.model_copy(update={"models": (InputModel(model=ModelRef(path=short)),)})


def options_entry(options: PlanOptions) -> dict[str, Any]:
    """Give the options that decide the output's bytes."""
    return {
        "dtype": options.dtype,
        "seed": options.seed,
        **({"round_float32": True} if options.round_float32 else {}),
        "nonfinite": "keep" if options.keep_nonfinite else "error",
        **options.small_files(),
        **options.format.to_json(),
    }


def stage_entry(name: str, plan: Plan) -> dict[str, Any]:
    """Describe a stage, for later merges that use its result; its inputs are described as this machine has them."""
    return {
        "name": name,
        **plug_in_entry(plan.method),
        "recipe": plan.recipe.to_json(),
        "models": list(plan.models),
        "inputs": _inputs(plan),
        "shards": plan.options.format.shard_entries(plan.layout),
    }


def _inputs(plan: Plan) -> list[dict[str, Any]]:
    return input_entries(plan.checkpoints, asked_recipe(plan).references())


def _vocabulary(plan: Plan) -> dict[str, Any]:
    """Describe the output's vocabulary and the tokenizer files it was made from; empty if the recipe asks for none."""
    vocabulary = plan.vocabulary
    if vocabulary is None:
        return {}
    described = {"source": vocabulary.source, "tokens": vocabulary.token_count, "rows": vocabulary.row_count}
    return {"vocabulary": {**described, "inputs": vocabulary.inputs()}}


def write_manifest(
    folder: Path,
    manifest: dict[str, Any],
    plan: Plan,
    table: RecordTable,
    known_by: str,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a manifest and the record of its inputs into a folder, durably, and fill in ``plan_hash``.

    Parameters
    ----------
    folder
        The staging folder.
    manifest
        The object that `build_manifest` gave, and what the caller has added to it.
    plan, table
        The plan that was carried out, and the rows of all chunks.
    known_by
        Hash by which the same command will know the output again.
    earlier
        As for `build_manifest`.

    """
    manifest["plan_hash"] = _plan_hash(manifest)
    checksum = ""

    def parts() -> Iterator[bytes]:
        nonlocal checksum
        for part in manifest_parts(manifest, plan, table):
            yield part
        checksum = json.loads(b"{" + part.lstrip(b",\n "))[SELF_CHECKSUM]

    write_durably(folder / MANIFEST_NAME, parts())
    names = [entry["name"] for entry in earlier]
    stages = tuple({"name": entry["name"], "inputs": _timeless(entry["inputs"], names)} for entry in earlier)
    inputs = tuple(_timeless(_inputs(plan)[: len(manifest["inputs"])], names))
    write_record(folder, InputRecord(known_by, inputs, stages), checksum)


def _timeless(entries: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> list[Mapping[str, Any]]:
    """Leave out the times of results of stages, which are new with every run and tell nothing."""
    return [
        {**entry, "files": portable_files(entry["files"])} if entry["name"] in stages else entry for entry in entries
    ]


def _plan_hash(manifest: Mapping[str, Any]) -> str:
    """Hash what decided the output, so far as it does not belong to this machine, and not what came out."""
    found = {key: value for key, value in manifest.items() if key not in _NOT_PLANNED}
    if "extraction" in manifest:
        found["extraction"] = manifest["extraction"]["options"]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def manifest_parts(manifest: Mapping[str, Any], plan: Plan, table: RecordTable) -> Iterator[bytes]:
    """Write a manifest as JSON, part by part: first what `build_manifest` gave, then each tensor on one line.

    The parts are never joined, because the entries of all tensors together can be larger than the memory limit allows.
    The last entry is the checksum of all text before it.

    Parameters
    ----------
    manifest
        The object that `build_manifest` gave.
    plan
        The plan that was carried out.
    table
        The rows of all chunks.

    Yields
    ------
    bytes
        The parts of the text, in order.

    """
    checksum = xxhash.xxh3_64()

    def part(text: str) -> bytes:
        data = text.encode()
        checksum.update(data)
        return data

    yield part(json.dumps(manifest, indent=1).removesuffix("\n}") + ',\n "tensors": {')
    sums = table.tensor_sums()
    for index, tensor in enumerate(plan.tensors):
        entry = json.dumps(_tensor_entry(plan, tensor, index, table.of_tensor(index), sums[index]))
        yield part(f"{',' if index else ''}\n  {json.dumps(tensor.name)}: {entry}")
    yield part("\n }")
    yield _checksum_entry(checksum.hexdigest())


def is_intact(text: bytes) -> bool:
    """Whether the checksum at the end of a manifest's text is that of the text before it."""
    body, _, _ = text.rpartition(_checksum_entry("").partition(b'""')[0])
    return text == body + _checksum_entry(hex_checksum(body))


def _checksum_entry(checksum: str) -> bytes:
    return f',\n "{SELF_CHECKSUM}": "{checksum}"\n}}\n'.encode()


def _tensor_entry(plan: Plan, tensor: PlannedTensor, index: int, rows: NDArray[Any], sums: Any) -> dict[str, Any]:
    shard = plan.layout.shards[plan.layout.tensors[index].shard]
    return {
        "file": shard.file_name,
        "dtype": tensor.dtype.name,
        "shape": list(tensor.shape),
        "chunk_elements": tensor.chunking.chunk_elements,
        **plan.options.format.tensor_entry(plan.layout, index, tensor.chunking),
        **({} if tensor.inputs_length is None else {"chunk_edges": tensor.chunk_edges}),
        "checksums": chunk_checksums(rows),
        "statistics": tensor_statistics(tensor, sums),
    }


def tensor_statistics(tensor: PlannedTensor, sums: Any) -> dict[str, Any]:
    """Summarise one tensor, given the sum of its rows. Lists are in the order in which the method took the models.

    ``models``: that order, as indices into the manifest's ``models``.
    ``kept``, ``density``: the number of elements of each task vector that the merge keeps, and their fraction.
    ``overlap``: for each pair of models, the number of elements that both keep over the number that either keeps.
    ``task_vector_norm``, ``kept_norm``: Euclidean norms of each task vector before and after pruning.
    ``merged_norm``: the Euclidean norm of the merged change.
    ``overflowed``: the number of elements of the output that are not finite.
    ``nonfinite``: the numbers of NaN and infinite elements read from each input, the base model first.
    A norm is None if such elements went into it.
    ``output``: if a problem has several outputs, the number of this one. Only the first has the statistics, which
    describe the problem as a whole.
    """
    if tensor.copied:
        return {"copied": True, "differing": bool(sums["differing"])}
    if tensor.output:
        return {"output": tensor.output}
    count = len(tensor.models)
    return {
        "models": list(tensor.order),
        **_kept_statistics(sums["kept"].tolist(), [tensor.domain] * count),
        "task_vector_norm": _norms(sums["delta_square"].tolist()[:count]),
        "kept_norm": _norms(sums["kept_square"].tolist()[:count]),
        "merged_norm": _norm(float(sums["merged_square"])),
        "overflowed": int(sums["overflowed"]),
        "nonfinite": sums["nonfinite"].tolist()[: len(tensor.inputs)],
    }


def total_statistics(plan: Plan, table: RecordTable) -> dict[str, Any]:
    """Summarise the whole merge; lists are in the order of the recipe's models (``models`` of the manifest)."""
    count = len(plan.models)
    kept, elements = np.zeros((count, count), np.int64), np.zeros(count, np.int64)
    delta, kept_square, merged = np.zeros(count), np.zeros(count), 0.0
    overflowed = nonfinite = 0
    sums = table.tensor_sums()
    alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, tensor in enumerate(plan.tensors):
        if not tensor.copied and not tensor.output:
            alike[tensor.order].append(index)
    for places, indices in alike.items():
        order, size = np.array(places), len(places)
        found = sums[indices]
        # A model can stand at several places of a tensor's order: unbuffered addition counts each.
        np.add.at(kept, np.ix_(order, order), found["kept"].sum(axis=0)[:size, :size])
        np.add.at(elements, order, sum(plan.tensors[index].domain for index in indices))
        np.add.at(delta, order, found["delta_square"].sum(axis=0)[:size])
        np.add.at(kept_square, order, found["kept_square"].sum(axis=0)[:size])
        merged += float(found["merged_square"].sum())
        overflowed += int(found["overflowed"].sum())
        nonfinite += int(found["nonfinite"].sum())
    return {
        "elements": [int(value) for value in elements],
        **_kept_statistics(kept.tolist(), elements.tolist()),
        "task_vector_norm": _norms(delta.tolist()),
        "kept_norm": _norms(kept_square.tolist()),
        "merged_norm": _norm(merged),
        "overflowed": overflowed,
        "nonfinite": nonfinite,
        "copied": sum(tensor.copied for tensor in plan.tensors),
        "copied_differing": differing_copies(plan, table),
    }


def differing_copies(plan: Plan, table: RecordTable) -> list[str]:
    """Name the tensors that were copied from the base model although another model has other values."""
    return [
        tensor.name
        for index, tensor in enumerate(plan.tensors)
        if tensor.copied and table.of_tensor(index)["differing"].any()
    ]


def _kept_statistics(kept: list[list[int]], elements: list[int]) -> dict[str, Any]:
    """Compute counts, densities and overlaps, in plain Python, which for a few models is faster than numpy."""
    models = range(len(elements))
    overlap = [[kept[i][j] / max(1, kept[i][i] + kept[j][j] - kept[i][j]) for j in models] for i in models]
    return {
        "kept": [kept[i][i] for i in models],
        "density": [kept[i][i] / max(1, elements[i]) for i in models],
        "overlap": overlap,
    }


def _norms(squares: list[float]) -> list[float | None]:
    return [_norm(square) for square in squares]


def _norm(square: float) -> float | None:
    """Compute a norm from its square; None if the square is not finite, because JSON has neither NaN nor infinity."""
    return math.sqrt(square) if math.isfinite(square) else None


def norm_text(norm: float | None, digits: int) -> str:
    """Write a norm with a number of significant digits, or say that it is not finite."""
    return "not finite" if norm is None else f"{norm:.{digits}g}"


def has_task_vectors(statistics: Mapping[str, Any]) -> bool:
    """Whether any task vector is not zero; otherwise there is no density or overlap to show."""
    return any(norm != 0 for norm in statistics["task_vector_norm"])


def pair_overlaps(statistics: Mapping[str, Any]) -> Sequence[tuple[int, int, float]]:
    """List (i, j, overlap) for every pair of models i < j; the list is empty for methods without task vectors."""
    matrix = statistics["overlap"] if has_task_vectors(statistics) else []
    return [(i, j, matrix[i][j]) for i in range(len(matrix)) for j in range(i + 1, len(matrix))]
