"""Showing an analysis as tables for people, and what is to be looked at in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from dovetail.engine.cli.report.console import new_table, show
from dovetail.engine.output.tensor_table import labels
from dovetail.engine.text import counted, format_size, short_name

Document = Mapping[str, Any]
"""What `Analysis.to_json` gives, or what was saved of it."""


def print_analysis(document: Document) -> None:
    """Print figures of all models and pairs, then by layer and kind, then what is to be looked at."""
    names = labels(document["models"])
    show(f"Changes from {short_name(document['base'])}:", _models(document, names), "")
    if document["pairs"]:
        show("How they lie to each other:", _pairs(document, names), "")
    for title, groups in (("layer", document["layers"]), ("kind of tensor", document["kinds"])):
        show(f"Changes, of the base's norm, and pairs, by {title}:", _groups(document, groups, names), "")
    print_cautions(document)
    speed = document["read_bytes"] / max(document["seconds"], 1e-9) / 1e9
    count = counted(document["tensor_count"], "tensor")
    show(f"{count} analysed ({format_size(document['read_bytes'])} at {speed:.2f} GB/s)")


def print_cautions(document: Document) -> None:
    """Print what is to be looked at."""
    for each in document["cautions"]:
        show(f"look: {each['text']}")
    if not document["cautions"]:
        show("Nothing stands out.")


def _models(document: Document, names: Sequence[str]) -> Table:
    block = f"{document['n']}:{document['m']}"
    several = len(names) > 1
    titles = ["Model", "norm", "of base's", "unchanged", *(f"energy in {each}" for each in document["strongest"])]
    table = new_table(*titles, f"in {block}", *([f"after others, {block}"] if several else []))
    for name, each in zip(names, document["total"]["models"], strict=True):
        cells = [_number(each["norm"]), _share(each["relative_norm"]), _share(each["unchanged"])]
        energy = each["energy"] if several else each["energy"][:1]
        table.add_row(name, *cells, *map(_share, each["strongest"]), *map(_share, energy))
    return table


def _pairs(document: Document, names: Sequence[str]) -> Table:
    block = f"{document['n']}:{document['m']}"
    titles = ("Models", "cosine", "both changed", "opposed", "by magnitude", f"overlap of {block}")
    table = new_table(*titles)
    for (i, j), each in zip(document["pairs"], document["total"]["pairs"], strict=True):
        shares = (each["both_changed"], each["sign_conflict"], each["weighted_conflict"], each["overlap"])
        table.add_row(f"{names[i]}, {names[j]}", _cosine(each["cosine"]), *map(_share, shares))
    return table


def _groups(document: Document, groups: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Show how much of the base's norm each model changed, and what pairs have in common: of several, the extremes."""
    count = len(document["pairs"])
    titles = ["cosine", "opposed by magnitude"] if count == 1 else ["least cosine", "greatest", "most opposed"]
    table = new_table("", *names, *(titles if count else []))
    for group, figures in groups.items():
        changes = (_share(each["relative_norm"]) for each in figures["models"])
        table.add_row(group, *changes, *_extremes(figures["pairs"]))
    return table


def _extremes(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    cosines = [each["cosine"] for each in pairs if each["cosine"] is not None]
    opposed = [each["weighted_conflict"] for each in pairs if each["weighted_conflict"] is not None]
    cells = [_cosine(choose(cosines, default=None)) for choose in ((min, max) if len(pairs) > 1 else (min,))]
    return [*cells, _share(max(opposed, default=None))] if pairs else []


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _share(value: float | None) -> str:
    """Write a share; what is too small for a digit is no plain zero."""
    if value is None:
        return "-"
    if 0 < value < 0.0001:
        return "<0.01%"
    if 0.9999 < value < 1:
        return ">99.99%"
    return f"{value:.2%}"
