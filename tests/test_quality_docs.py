"""The page and the README say of the quality of merges what the raw scores say."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from tests.doc_blocks import ROOT

NAMES = {
    "the fine-tunes, each for its task": "experts",
    "`tsv_m`": "TSV-M",
    "`iso_c`": "ISO-C",
    "`nm_pruning`": "n:m",
    "`cabs`": "CABS",
    "`consensus_ta`": "consensus TA",
    "`magnitude`": "magnitude",
    "`ties`": "TIES",
    "`cabs`, not balanced": "CABS, not balanced",
    "`task_arithmetic`": "task arithmetic",
    "`dare_linear`": "DARE",
    "`dare_ties`": "DARE-TIES",
    "`model_stock`": "model stock",
    "the base model": "base",
}
"""What the README and the page call each row."""


def accuracies() -> dict[str, float]:
    """Compute the mean accuracy of every row from the texts that were right, in percent."""
    results = json.loads((ROOT / "docs" / "quality.json").read_text())["results"]
    found: dict[str, list[float]] = {}
    for seed in results["seeds"].values():
        compared = seed["compare"]
        rows = {family: compared["settings"][name]["test"] for family, name in compared["chosen"].items()}
        for family, result in {**rows, "base": compared["base"], "experts": compared["experts"]}.items():
            found.setdefault(family, []).append(float(np.mean([right(each) for each in result.values()])))
    assert {5} == {len(each) for each in found.values()}
    return {family: 100 * float(np.mean(each)) for family, each in found.items()}


def right(task: dict[str, Any]) -> float:
    """Give the share of the texts of a task that were right."""
    written = int(task["right"], 16) >> (4 * len(task["right"]) - task["texts"])
    return written.bit_count() / int(task["texts"])


def table(path: str, heading: str) -> dict[str, list[str]]:
    """Read the first table after a heading: the cells of each row by its first one."""
    _, _, rest = (ROOT / path).read_text().partition(f"{heading}\n")
    lines = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert lines
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in lines[0].splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize(
    ("path", "heading"), [("README.md", "### How good merges are"), ("docs/quality.md", "## Methods")]
)
def test_accuracies(path: str, heading: str) -> None:
    """Every row has the accuracy, and the difference to task arithmetic, that its scores give, and none is left out."""
    expected, rows = accuracies(), table(path, heading)
    plain = expected["task arithmetic"]
    names = {NAMES.get(name, name): cells for name, cells in rows.items()}
    assert set(expected) == {name for name in names if not name.endswith("own weights")}
    for name, accuracy in expected.items():
        shown, difference = names[name][1].split()[0], names[name][2].split()
        assert accuracy == pytest.approx(float(shown), abs=0.0051), name
        if name != "task arithmetic":
            assert accuracy - plain == pytest.approx(float(difference[0]), abs=0.0051), name
