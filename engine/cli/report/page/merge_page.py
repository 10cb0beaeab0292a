"""The page of a merge: what every model gave to it, layer by layer and tensor by tensor."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.cli.report.page.parts import (
    Column,
    Curves,
    Facts,
    HeatMap,
    Measure,
    Page,
    Part,
    Section,
    Table,
    Text,
)
from dovetail.engine.output.manifest import has_task_vectors, pair_overlaps
from dovetail.engine.recipe.layers import parse_layer
from dovetail.engine.text import counted, format_size, short_name
from dovetail.io.zarr.vectors import VectorsFormat

if TYPE_CHECKING:
    from dovetail.engine.events import Done
    from dovetail.engine.output.document import Manifest

OUTSIDE: Final = "outside"
"""What stands in the place of a layer for tensors that are in none."""

MOST_KINDS: Final = 200
"""Kinds of tensors up to which their names stand whole; of more, those whose names end alike are one kind."""

MOST_CELLS: Final = 20_000
"""Cells of the heat map up to which it is shown."""

MOST_PAIRS: Final = 15
"""Pairs of models that the heat map shows; a table has all of them."""

_KINDS: Final = {"convert": "Conversion", "modules": "Module", "extract_lora": "Adapter", "moe": "Mixture of experts"}
"""What outputs are that no recipe's merge has made, by what their manifests have in the place of a method."""

_TENSORS: Final = "tensors"
"""Id of the table of tensors."""

_UNEVEN: Final = 10.0
"""Ratio of what two models give from which on it is worth a sentence."""


def merge_page(manifest: Manifest, done: Done | None = None) -> Page:
    """Make the page of a merge.

    Parameters
    ----------
    manifest
        The output's manifest.
    done
        What the merge took, if that is known.

    Raises
    ------
    VerificationError
        The manifest is damaged.

    """
    totals, names = manifest["totals"], _unique([short_name(str(name)) for name in manifest["models"]])
    table = manifest.table()
    method = str(manifest["recipe"].get("merge_method", "conversion"))
    elements = int(table["elements"].sum())
    with_vectors = has_task_vectors(totals)
    summary = {
        "Method": method,
        "Models": f"{len(names):,}",
        "Tensors": f"{len(table):,}",
        "Parameters": f"{elements:,}",
        **_size(manifest),
        **_costs(done),
        **({"Change of the base": f"{totals['merged_norm']:.4g}"} if with_vectors and totals["merged_norm"] else {}),
    }
    places = _Places(table)
    sections = [
        Section("Inputs", (), list(_inputs(manifest))),
        *(_shares(names, totals) if with_vectors else ()),
        *([_layers(names, table, places)] if with_vectors else []),
        Section("Tensors", (), [_tensor_table(names, table, places, with_vectors)]),
        Section("Recipe", (), [Text(_recipe(manifest))]),
    ]
    return Page(
        f"{_what(manifest)} {manifest.folder.resolve().name}", summary, list(_warnings(names, totals, table)), sections
    )


class _Places:
    """Where every tensor belongs: its layer and the kind of its module.

    Parameters
    ----------
    table
        The tensors.

    """

    def __init__(self, table: np.recarray[Any, Any]) -> None:
        self.layer: list[str] = []
        self.kind: list[str] = []
        stacks = {parsed.stack for name in table["name"] if (parsed := parse_layer(name)) is not None}
        for name in table["name"]:
            parsed = parse_layer(name)
            if parsed is None:
                self.layer.append(OUTSIDE)
                self.kind.append(_without_numbers(name))
            else:
                self.layer.append(str(parsed.number) if len(stacks) == 1 else f"{parsed.stack}{parsed.number}")
                self.kind.append(_without_numbers(parsed.suffix.lstrip(".")))
        if len(set(self.kind)) > MOST_KINDS:
            self.kind = [".".join(kind.split(".")[-2:]) for kind in self.kind]
        self.layers = sorted(dict.fromkeys(self.layer), key=_natural)
        self.kinds = list(dict.fromkeys(self.kind))

    def cells(self, chosen: NDArray[np.bool_]) -> dict[tuple[int, int], list[int]]:
        """Give the tensors of each layer and kind, of those that are chosen."""
        layers = {name: index for index, name in enumerate(self.layers)}
        kinds = {name: index for index, name in enumerate(self.kinds)}
        found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index in np.flatnonzero(chosen):
            found[layers[self.layer[index]], kinds[self.kind[index]]].append(int(index))
        return found


def _without_numbers(kind: str) -> str:
    """Put all experts of a layer together."""
    return ".".join("*" if part.isdigit() else part for part in kind.split("."))


def _natural(name: str) -> tuple[Any, ...]:
    stack, _, number = name.rpartition(".")
    return (name == OUTSIDE, stack, int(number)) if number.isdigit() else (name == OUTSIDE, name, 0)


def _layers(names: Sequence[str], table: np.recarray[Any, Any], places: _Places) -> Section:
    """Show every measure by layer and kind of module."""
    merged = ~table["copied"] & np.isfinite(table["merged_norm"])
    cells = places.cells(merged)
    layers = sorted({layer for layer, _ in cells})
    kinds = sorted({kind for _, kind in cells})
    heights = {
        name: [
            _norm(
                table["kept_norm"][
                    [index for (at, _), all_of in cells.items() if at == layer for index in all_of], place
                ]
            )
            for layer in layers
        ]
        for place, name in enumerate(names)
    }
    shown = [places.layers[layer] for layer in layers]
    curves = Curves("What models give, by layer", "layer", shown, "norm kept", heights)
    sentences = (
        "A task vector is a fine-tuned model minus the base model. Its norm says how much fine-tuning has changed; "
        "the norm kept, how much of that the merge takes, before weights.",
    )
    if len(layers) * len(kinds) > MOST_CELLS:
        more = f"There are too many kinds of tensors ({len(kinds):,}) for a heat map; the table below has them."
        return Section("Layers", (*sentences, more), [curves])
    names_of_kinds = [places.kinds[kind] for kind in kinds]
    title = "By layer and kind of tensor"
    heat = HeatMap(title, "kind", names_of_kinds, "layer", shown, list(_measures(names, table, cells)), table=_TENSORS)
    return Section("Layers", sentences, [heat, curves])


def _measures(
    names: Sequence[str], table: np.recarray[Any, Any], cells: Mapping[tuple[int, int], list[int]]
) -> Iterator[Measure]:
    """Give every way to colour the heat map."""
    layers = {layer: row for row, layer in enumerate(sorted({layer for layer, _ in cells}))}
    kinds = {kind: column for column, kind in enumerate(sorted({kind for _, kind in cells}))}

    def grid(value: Any) -> list[list[float | None]]:
        found = np.full((len(layers), len(kinds)), np.nan)
        for (layer, kind), indices in cells.items():
            found[layers[layer], kinds[kind]] = value(table[indices])
        rows: list[list[float | None]] = found.tolist()
        return rows

    yield Measure("change of the base by the merge (norm)", grid(lambda rows: _norm(rows["merged_norm"])))
    for place, name in enumerate(names):
        yield from _of_model(place, name, grid)
    for i, j in list(itertools.combinations(range(len(names)), 2))[:MOST_PAIRS]:
        overlaps = grid(lambda rows, i=i, j=j: _overlap(rows, i, j))
        yield Measure(f"overlap of {names[i]} and {names[j]}", overlaps, percent=True)


def _of_model(place: int, name: str, grid: Any) -> Iterator[Measure]:
    yield Measure(f"{name}: norm of the task vector", grid(lambda rows: _norm(rows["task_vector_norm"][:, place])))
    yield Measure(f"{name}: norm kept", grid(lambda rows: _norm(rows["kept_norm"][:, place])))
    yield Measure(
        f"{name}: share of the norm kept",
        grid(lambda rows: _ratio(_norm(rows["kept_norm"][:, place]), _norm(rows["task_vector_norm"][:, place]))),
        percent=True,
    )
    yield Measure(
        f"{name}: density",
        grid(lambda rows: float(rows["kept"][:, place].sum() / max(1, rows["elements"].sum()))),
        percent=True,
    )


def _norm(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.nansum(np.square(values))))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _overlap(rows: Any, i: int, j: int) -> float:
    """Give the overlap of two models in several tensors, from that of each tensor and its numbers of kept elements."""
    sums = (rows["kept"][:, i] + rows["kept"][:, j]).astype(np.float64)
    each = rows["overlap"][:, i, j]
    both = np.nan_to_num(each / (1 + each)) * sums
    either = float((sums - both).sum())
    return float(both.sum()) / either if either else math.nan


def _shares(names: Sequence[str], totals: Mapping[str, Any]) -> Iterator[Section]:
    norms, kept = (np.array(totals[key], dtype=float) for key in ("task_vector_norm", "kept_norm"))
    parts: list[Part] = [
        Table(
            "What every model gives",
            [
                Column("model", list(names)),
                Column("density", list(totals["density"]), percent=True),
                Column("task vector norm", norms.tolist()),
                Column("norm kept", kept.tolist()),
                Column(
                    "share of the norm kept", [_ratio(*each) for each in zip(kept, norms, strict=True)], percent=True
                ),
            ],
        )
    ]
    if pairs := pair_overlaps(totals):
        parts.append(
            Table(
                "Overlap",
                [
                    Column("model", [names[i] for i, _, _ in pairs]),
                    Column("and", [names[j] for _, j, _ in pairs]),
                    Column("overlap", [value for _, _, value in pairs], percent=True),
                ],
            )
        )
    yield Section(
        "Models",
        (
            "Density is the share of a model's changes that the merge keeps. Overlap is, of the places where either of "
            "two models keeps a change, the share where both do: there they are in conflict.",
        ),
        parts,
    )


def _tensor_table(names: Sequence[str], table: np.recarray[Any, Any], places: _Places, with_vectors: bool) -> Table:
    columns = [
        Column("tensor", list(table["name"])),
        Column("layer", places.layer, choose=True),
        Column("kind", places.kind, choose=len(places.kinds) <= 500),
        Column("dtype", list(table["dtype"]), choose=True),
        Column("shape", [" x ".join(map(str, shape)) for shape in table["shape"]]),
        Column("elements", table["elements"].tolist()),
    ]
    if table["copied"].any():
        columns.append(Column("from the base", ["as it is" if each else "" for each in table["copied"]], choose=True))
    if with_vectors:
        columns.append(Column("change", table["merged_norm"].tolist()))
        for place, name in enumerate(names):
            columns += [
                Column(f"{name}: density", table["density"][:, place].tolist(), percent=True),
                Column(f"{name}: norm", table["task_vector_norm"][:, place].tolist()),
                Column(f"{name}: norm kept", table["kept_norm"][:, place].tolist()),
            ]
        if len(names) == 2:
            columns.append(Column("overlap", table["overlap"][:, 0, 1].tolist(), percent=True))
    return Table("Every tensor of the output", columns, id=_TENSORS)


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


def _recipe(manifest: Manifest) -> str:
    """Give the recipe as the manifest has it, with all that it inherits."""
    import yaml

    text: str = yaml.safe_dump(manifest["recipe"], sort_keys=False, allow_unicode=True)
    return text


def _size(manifest: Manifest) -> dict[str, str]:
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


def _unique(names: Sequence[str]) -> list[str]:
    """Number names that several models have."""
    return [f"{name} ({index + 1})" if names.count(name) > 1 else name for index, name in enumerate(names)]
