"""The page of a merge: what every model gave to it, layer by layer and tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.engine.cli.report.page.columns import fitting_columns, place_columns, shape_text
from dovetail.engine.cli.report.page.conflicts import conflicts_section
from dovetail.engine.cli.report.page.layers import TENSORS, layer_sections
from dovetail.engine.cli.report.page.models import models_section
from dovetail.engine.cli.report.page.parts import Column, Facts, Page, Part, Section, Table, Text
from dovetail.engine.facts import listed
from dovetail.engine.methods.registry import all_methods
from dovetail.engine.output.manifest import has_task_vectors, norm_text
from dovetail.engine.output.places import Places
from dovetail.engine.output.tensor_table import labels
from dovetail.engine.text import counted, format_size, short_name
from dovetail.io.zarr.vectors import VectorsFormat

if TYPE_CHECKING:
    from dovetail.engine.actions.conflicts import Conflicts
    from dovetail.engine.events import Done
    from dovetail.engine.output.document import Manifest

_KINDS: Final = {"convert": "Conversion", "modules": "Module", "extract_lora": "Adapter", "moe": "Mixture of experts"}
"""What outputs are that no recipe's merge has made, by what their manifests have in the place of a method."""

_UNEVEN: Final = 10.0
"""Ratio of what two models give from which on it is worth a sentence."""


def merge_page(manifest: Manifest, done: Done | None = None, conflicts: Conflicts | None = None) -> Page:
    """Make the page of a merge.

    Parameters
    ----------
    manifest
        The output's manifest.
    done
        What the merge took, if that is known.
    conflicts
        Who overrode whom, if that was found out.

    Raises
    ------
    VerificationError
        The manifest is damaged.

    """
    totals, names = manifest["totals"], labels([str(name) for name in manifest["models"]])
    table = manifest.table()
    method = str(manifest["recipe"].get("merge_method", "conversion"))
    elements = int(table["elements"].sum())
    with_vectors = has_task_vectors(totals)
    summary = {
        "Method": method,
        "Models": f"{len(names):,}",
        "Tensors": f"{len(table):,}",
        "Parameters": f"{elements:,}",
        **size_text(manifest),
        **_costs(done),
        **({"Change of the base (norm)": norm_text(totals["merged_norm"], 4)} if with_vectors else {}),
    }
    places = Places(list(table["name"]))
    sections = [
        *([models_section(names, totals)] if with_vectors else []),
        *(layer_sections(names, totals, table, places) if with_vectors else ()),
        *([conflicts_section(names, conflicts)] if conflicts is not None else []),
        _tensors(names, table, places, with_vectors),
        Section("Recipe", (), [Text(recipe_text(manifest))]),
        Section("Inputs", (), list(_inputs(manifest))),
    ]
    title = f"{_what(manifest)} {manifest.folder.resolve().name}"
    return Page(title, summary, list(_warnings(names, totals, table)), sections, list(_lead(manifest, names)))


def _lead(manifest: Manifest, names: Sequence[str]) -> Iterator[str]:
    """Say what was merged, and what the method does."""
    recipe = manifest["recipe"]
    method = all_methods().get(str(recipe.get("merge_method")))
    if method is None or not names:
        return
    base = recipe.get("base_model")
    yield f"{listed(names)}, merged by {method.name}" + (
        f" on the base model {short_name(str(base))}." if base else "."
    )
    yield f"What {method.name} is for: {method.summary[:1].lower()}{method.summary[1:]}"


def _tensors(names: Sequence[str], table: np.recarray[Any, Any], places: Places, with_vectors: bool) -> Section:
    columns = [
        *place_columns(list(table["name"]), places),
        Column("dtype", list(table["dtype"]), choose=True),
        Column("shape", [shape_text(shape) for shape in table["shape"]]),
        Column("elements", table["elements"].tolist()),
    ]
    if table["copied"].any():
        columns.append(Column("from the base", ["as it is" if each else "" for each in table["copied"]], choose=True))
    left_out = ""
    if with_vectors:
        figures, left_out = fitting_columns(list(_figures(names, table)), len(table))
        columns += figures
    return Section(
        "Tensors", [left_out] if left_out else (), [Table("Every tensor of the output", columns, id=TENSORS)]
    )


def _figures(names: Sequence[str], table: np.recarray[Any, Any]) -> Iterator[list[Column]]:
    """Give the columns of figures, those that tell most first."""
    yield [Column("change", table["merged_norm"].tolist())]
    if len(names) == 2:
        yield [Column("overlap", table["overlap"][:, 0, 1].tolist(), percent=True)]
    for title, key in (("density", "density"), ("norm kept", "kept_norm"), ("norm", "task_vector_norm")):
        yield [
            Column(f"{name}: {title}", table[key][:, place].tolist(), percent=key == "density")
            for place, name in enumerate(names)
        ]


def _inputs(manifest: Manifest) -> Iterator[Part]:
    entries = manifest["inputs"]
    yield Table(
        "Checkpoints that were read",
        [
            Column("checkpoint", [short_name(str(each["checkpoint"])) for each in entries]),
            Column("files", [len(each["files"]) for each in entries]),
            Column("size", [format_size(sum(file["size_bytes"] for file in each["files"])) for each in entries]),
        ],
    )
    yield Facts(
        {
            "written by": f"Dovetail {manifest['dovetail_version']}",
            "plan": str(manifest["plan_hash"])[:16],
            "seed of random masks": str(manifest["options"].get("seed")),
        }
    )


def recipe_text(manifest: Manifest) -> str:
    """Give the recipe as the manifest has it, with all that it inherits."""
    import yaml

    text: str = yaml.safe_dump(manifest["recipe"], sort_keys=False, allow_unicode=True)
    return text


def size_text(manifest: Manifest) -> dict[str, str]:
    """Give the size of an output with its name, if it consists of files whose sizes are known."""
    shards = manifest["shards"]
    return {"Size": format_size(sum(shard["size_bytes"] for shard in shards))} if shards else {}


def _what(manifest: Manifest) -> str:
    """Say what kind of output it is."""
    if manifest["output_format"] == VectorsFormat.name:
        return "Store of task vectors"
    return _KINDS.get(str(manifest["recipe"].get("merge_method")), "Merge")


def _costs(done: Done | None) -> dict[str, str]:
    if done is None or done.already:
        return {}
    moved = done.read_bytes + done.written_bytes
    return {
        **({} if done.share_made == 1 else {"Made by this run": f"{done.share_made:.1%} of the chunks"}),
        "Time": f"{done.seconds:.1f} s",
        "Read and written": f"{format_size(moved)}",
        "Peak memory": f"{format_size(done.peak_resident_bytes)} of {format_size(done.allowed_bytes)}",
    }


def _warnings(names: Sequence[str], totals: Mapping[str, Any], table: np.recarray[Any, Any]) -> Iterator[str]:
    if totals["overflowed"]:
        yield (
            f"{counted(totals['overflowed'], 'value')} of the output are not finite, being too large for its dtype. "
            "Merge with smaller weights, or with a wider --dtype."
        )
    if totals["nonfinite"]:
        yield f"{counted(totals['nonfinite'], 'value')} of the inputs are NaN or infinite, and were let pass."
    if differing := totals["copied_differing"]:
        yield (
            f"{counted(len(differing), 'tensor')} came from the base model as they are although other models have "
            f"other values there, such as {differing[0]}."
        )
    if not has_task_vectors(totals):
        return
    norms = [float(each) if each is not None else math.inf for each in totals["task_vector_norm"]]
    for name, norm in zip(names, norms, strict=True):
        if norm == 0:
            yield f"{name} does not differ from the base model: it gives nothing to the merge."
    least, most = (choose(range(len(norms)), key=norms.__getitem__) for choose in (min, max))
    if norms[least] and math.isfinite(norms[most]) and norms[most] / norms[least] > _UNEVEN:
        yield (
            f"{names[most]} has changed {norms[most] / norms[least]:.0f} times as much as {names[least]}, whose part "
            "in the merge is small unless its weight is larger."
        )
    merged = table[~table["copied"]]
    idle = [name for place, name in enumerate(names) if norms[place] and not merged["kept"][:, place].any()]
    for name in idle:
        yield f"The merge keeps none of the changes of {name}."
