"""The page of an analysis: what models are like before they are merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from dovetail.engine.actions.saved_analysis import damaged, read_analysis
from dovetail.engine.actions.verify import DEFECTS
from dovetail.engine.cli.report.page.analysis_values import (
    OF_PAIR,
    Value,
    percent_of_base,
    values_of_models,
    values_of_pairs,
)
from dovetail.engine.cli.report.page.columns import MOST_CHOICES, fitting_columns, shape_text
from dovetail.engine.cli.report.page.layers import MOST_CELLS, MOST_PAIRS, TENSORS, fitting, too_many_kinds
from dovetail.engine.cli.report.page.parts import Column, Curves, HeatMap, Measure, Page, Part, Section, Table, Text
from dovetail.engine.output.tensor_table import labels
from dovetail.engine.text import format_size, short_name

Document = Mapping[str, Any]
"""What `dovetail.engine.actions.analysis.Analysis.to_json` gives."""


def saved_analysis_page(path: Path) -> Page:
    """Make the page of an analysis in a file.

    Raises
    ------
    VerificationError
        The file is damaged, or of another version.

    """
    document = read_analysis(path)
    try:
        return analysis_page(document)
    except (LookupError, RecursionError, *DEFECTS) as error:
        raise damaged(path, error) from error


def analysis_page(document: Document) -> Page:
    """Make the page of an analysis."""
    names, block = labels(document["models"]), f"{document['n']}:{document['m']}"
    tensors = document["tensors"]
    elements = sum(prod(each["shape"]) for each in tensors)
    summary = {
        "Base model": short_name(str(document["base"])),
        "Models": f"{len(names):,}",
        "Tensors": f"{len(tensors):,}",
        "Parameters": f"{elements:,}",
        "Read": format_size(document["read_bytes"]),
        "Time": f"{document['seconds']:.1f} s",
        "To look at": f"{len(document['cautions']):,}" if document["cautions"] else "nothing",
    }
    sections = [
        _models(document, names, block),
        *([_pairs(document, names, block)] if document["pairs"] else []),
        _layers(document, names, block),
        _tensors(document, names, block),
        *(
            [Section("Notes", ("Said of any merge of these models.",), [Text("\n".join(document["notes"]))])]
            if document["notes"]
            else []
        ),
    ]
    warnings = [str(each["text"]) for each in document["cautions"]]
    return Page(
        f"Analysis of {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}", summary, warnings, sections
    )


def _models(document: Document, names: Sequence[str], block: str) -> Section:
    found = document["total"]["models"]

    def column(title: str, value: Callable[[Mapping[str, Any]], Any], *, percent: bool = True) -> Column:
        return Column(title, [value(each) for each in found], percent=percent)

    columns = [
        Column("model", list(names)),
        column("change (norm)", lambda each: each["norm"], percent=False),
        column("% of the base's norm", percent_of_base, percent=False),
        column("unchanged elements", lambda each: each["unchanged"]),
        column("changes below bfloat16", lambda each: each["below_bfloat16"]),
        *(
            column(f"energy in the strongest {share}", lambda each, place=place: each["strongest"][place])  # type: ignore[misc]
            for place, share in enumerate(document["strongest"])
        ),
        column(f"energy in {block}", lambda each: each["energy"][0]),
        column(f"energy in {block} after the others", lambda each: each["energy"][1]),
    ]
    shares = {name: [*each["strongest"]] for name, each in zip(names, found, strict=True)}
    curves = Curves("How concentrated changes are", "strongest", document["strongest"], "energy", shares, percent=True)
    sentences = (
        "A change is a fine-tuned model minus the base model. Fine-tunes mostly change by less than 10% of the base "
        "model's norm; models that have nothing to do with it, by about 141%.",
        "Energy is the sum of squares. Where few elements hold most of it, methods that keep few lose little.",
        f"{block} keeps the {block.split(':')[0]} strongest of every {block.split(':')[1]} changes: of each model for "
        "itself, or of one after another, so that no two keep the same element (CABS).",
    )
    return Section("Models", sentences, [Table("What every model changed", columns), curves])


def _pairs(document: Document, names: Sequence[str], block: str) -> Section:
    pairs, found = document["pairs"], document["total"]["pairs"]
    columns = [Column("model", [names[i] for i, _ in pairs]), Column("and", [names[j] for _, j in pairs])]
    for title, key, percent in OF_PAIR:
        columns.append(Column(title.format(block=block), [each[key] for each in found], percent=percent))
    columns.append(Column("both changed", [each["both_changed"] for each in found], percent=True))
    parts: list[Part] = [Table("Every pair of models", columns)]
    if len(names) > 2:
        measures = [
            Measure(
                title.format(block=block),
                _square(len(names), pairs, [each[key] for each in found]),
                percent=percent,
                signed=key == "cosine",
            )
            for title, key, percent in OF_PAIR
        ]
        parts.insert(0, HeatMap("Models against models", "model", names, "and model", names, measures))
    sentences = (
        "The cosine says how alike two changes are in direction: 1 is the same, 0 nothing in common, below 0 against "
        "each other. Fine-tunes on different tasks are near 0.",
        "Signs are opposed where both change an element, in different directions; by magnitude, every such element "
        "counts as much as the product of both changes. A half is what chance gives.",
        f"Overlap is, of the elements that either keeps by {block} for itself, the share that both keep.",
    )
    return Section("Pairs", sentences, parts)


def _square(count: int, pairs: Sequence[Sequence[int]], values: Sequence[float | None]) -> list[list[float | None]]:
    rows: list[list[float | None]] = [[None] * count for _ in range(count)]
    for (i, j), value in zip(pairs, values, strict=True):
        rows[i][j] = rows[j][i] = value
    return rows


def _layers(document: Document, names: Sequence[str], block: str) -> Section:
    layers, groups = list(document["layers"]), document["layers"].values()
    parts: list[Part] = [
        Curves(
            "Change by layer",
            "layer",
            layers,
            "% of the base's norm",
            {name: [percent_of_base(each["models"][place]) for each in groups] for place, name in enumerate(names)},
        )
    ]
    shown = document["pairs"][:MOST_PAIRS]
    if shown:
        cosines = {
            f"{names[i]} and {names[j]}": [each["pairs"][place]["cosine"] for each in groups]
            for place, (i, j) in enumerate(shown)
        }
        parts.append(Curves("Cosine by layer", "layer", layers, "cosine", cosines))
    cells = {(each["layer"], each["kind"]): each for each in document["cells"]}
    kinds = [kind for kind in document["kinds"] if any(found == kind for _, found in cells)]
    if len(layers) * len(kinds) > MOST_CELLS:
        return Section("Layers", (too_many_kinds(len(kinds)),), parts)
    grid = [[cells.get((layer, kind)) for kind in kinds] for layer in layers]
    measures = fitting(len(layers) * len(kinds), _measures(document, names, block, grid))
    parts.insert(0, HeatMap("By layer and kind of tensor", "kind", kinds, "layer", layers, measures, TENSORS))
    sentence = "Where every model changed most, and where two models change the same elements against each other."
    return Section("Layers", (sentence,), parts)


def _measures(document: Document, names: Sequence[str], block: str, grid: Sequence[Sequence[Any]]) -> Iterator[Measure]:
    def values(value: Callable[[Mapping[str, Any]], Any]) -> list[list[Any]]:
        return [[None if cell is None else value(cell) for cell in row] for row in grid]

    for title, value, percent in values_of_models(document, names, block):
        yield Measure(title, values(value), percent=percent)
    for title, value, percent in values_of_pairs(document, names, block, MOST_PAIRS):
        yield Measure(title, values(value), percent=percent, signed=not percent)


def _tensors(document: Document, names: Sequence[str], block: str) -> Section:
    rows = document["tensors"]

    def column(title: str, value: Value, *, percent: bool) -> Column:
        return Column(
            title,
            [value(each) if each["same"] is None else None for each in rows],
            percent=percent,
        )

    kinds = [each["kind"] for each in rows]
    columns = [
        Column("tensor", [each["name"] for each in rows]),
        Column("layer", [each["layer"] for each in rows], choose=True),
        Column("kind", kinds, choose=len(set(kinds)) <= MOST_CHOICES),
        Column("dtype", [each["dtype"] for each in rows], choose=True),
        Column("shape", [shape_text(each["shape"]) for each in rows]),
        Column("elements", [prod(each["shape"]) for each in rows]),
    ]
    values = (
        *values_of_models(document, names, block),
        *values_of_pairs(document, names, block, len(document["pairs"])),
    )
    groups = [[column(title, value, percent=percent)] for title, value, percent in values]
    shown, more = fitting_columns(groups, len(rows))
    return Section("Tensors", (more,) if more else (), [Table("Every tensor", [*columns, *shown], id=TENSORS)])
