"""The small files of an extracted adapter: its configuration for peft and its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dovetail.engine.output.lineage import card_head
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.output.markdown import cell, code, heading, sentence
from dovetail.engine.run.factor_store import MatrixReport
from dovetail.engine.text import short_name
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.files.durable import write_durably

CONFIG_NAME: Final = "adapter_config.json"
CARD_NAME: Final = "README.md"

_WORST: Final = 10
"""Matrices that the card lists."""


def write_adapter_files(folder: Path, config: Mapping[str, Any], card: str) -> dict[str, dict[str, Any]]:
    """Write both, durably, and give the size and checksum of each by name."""
    files = {CONFIG_NAME: (json.dumps(config, indent=2) + "\n").encode(), CARD_NAME: card.encode()}
    for name, data in files.items():
        write_durably(folder / name, data)
    return {name: {"size_bytes": len(data), "checksum": hex_checksum(data)} for name, data in files.items()}


def summary(reports: Sequence[MatrixReport], whole: Sequence[str]) -> dict[str, Any]:
    """Give the totals of an extraction, as its manifest has them.

    Parameters
    ----------
    reports
        All matrices, unchanged ones included.
    whole
        Tensors that are kept whole.

    Returns
    -------
    dict
        ``energy_kept`` is the share of the energy of all factored changes together that the stored factors keep.

    """
    energy = sum(report.norm**2 for report in reports)
    kept = sum(report.kept * report.norm**2 for report in reports)
    ranks = [report.rank for report in reports if report.rank]
    return {
        "factored": len(ranks),
        "unchanged": len(reports) - len(ranks),
        "whole": len(whole),
        "least_rank": min(ranks, default=0),
        "greatest_rank": max(ranks, default=0),
        "energy_kept": kept / energy if energy else 1.0,
        "least_energy_kept": min((report.kept for report in reports), default=1.0),
    }


def worst(reports: Sequence[MatrixReport], count: int) -> list[MatrixReport]:
    """Give the matrices of which the least is kept."""
    return sorted((report for report in reports if report.rank), key=lambda report: report.kept)[:count]


def adapter_card(
    names: tuple[str, str],
    bases: Sequence[str],
    reports: Sequence[MatrixReport],
    whole: Sequence[str],
    notes: Sequence[str],
) -> str:
    """Write the README.md: what the adapter was made from, how much of it is there, and how to use it.

    Parameters
    ----------
    names
        What the user calls the fine-tuned model and the base model.
    bases
        The base model as a hub names it; empty if none does.
    reports, whole
        As for `summary`.
    notes
        What a person should know.

    """
    totals = summary(reports, whole)
    tuned, base = names
    lines = [
        *card_head(bases, "adapter", {"library_name": "peft"}, "dovetail", "lora"),
        "",
        f"# {heading(short_name(tuned))} as an adapter",
        "",
        f"What {code(short_name(tuned))} changed in {code(short_name(base))}, extracted with Dovetail.",
        "",
        f"{totals['factored']} matrices are low-rank (ranks {totals['least_rank']} to {totals['greatest_rank']}) and "
        f"keep {totals['energy_kept']:.4%} of the energy (sum of squares) of what changed in them. "
        f"{totals['unchanged']} matrices did not change. {totals['whole']} tensors are kept whole.",
        "",
    ]
    lines += [f"- {sentence(note)}" for note in notes]
    lines += ["", "| matrix | rank | energy kept | relative error |", "|---|---|---|---|"]
    lines += [
        f"| {cell(each.name)} | {each.rank} | {each.kept:.4%} | {each.error:.4g} |" for each in worst(reports, _WORST)
    ]
    lines += ["", f"Every matrix, and checksums: `{MANIFEST_NAME}`.", ""]
    return "\n".join(lines)
