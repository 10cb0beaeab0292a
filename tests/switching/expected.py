"""What mergekit 0.1.5 makes of the corpus, as ``bench/switching.py --write`` has written it, and how to compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.switching.comparing import Tensors, projections, rendered, tokens_of, tolerances
from tests.switching.corpus import Entry
from tests.switching.exceptions import DTYPES, OWN_TEMPLATES
from tests.switching.making import template_of

EXPECTED = Path(__file__).parent / "expected.json"
"""By recipe, what `comparing.described` says of mergekit's output, or its error."""
VALUES = Path(__file__).parent / "values.npz"
"""By recipe, `comparing.projections` of mergekit's output in float32, where random masks keep everything."""
UNITS = 8.0
"""Units in the last place by which elements may differ from mergekit's; those of the corpus do by 3.3."""


def differences(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Say what differs between two descriptions, beside the order of a union's new tokens and further files."""
    found = []
    for key in sorted({*expected, *actual}):
        one, other = expected.get(key), actual.get(key)
        if key == "tokens":
            one, other = sorted(one or []), sorted(other or [])
        if key == "files":  # a template has a file of its own with mergekit, and may be among the settings here
            one, other = sorted({*(one or [])} - {*(other or []), "chat_template.jinja"}), []
        if one != other:
            found.append(f"{key} {other!r}; mergekit's is {one!r}")
    return found


def but_for_documented(entry: Entry, expected: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Give what is expected of a recipe where Dovetail differs on purpose, and make sure that it does."""
    expected, name = dict(expected), entry.name
    if name in DTYPES:
        assert expected["dtypes"] != DTYPES[name]
        expected["dtypes"] = DTYPES[name]
    if name in OWN_TEMPLATES:
        assert expected["prompt"] != made["prompt"]
        expected["prompt"] = made["prompt"]
    if entry.first_model is not None:
        expected["prompt"] = rendered(template_of(entry.first_model))
    return expected


def read_expected() -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Read the descriptions, by recipe, and the projections, by recipe."""
    with np.load(VALUES) as stored:
        return json.loads(EXPECTED.read_text()), dict(stored)


def values_differ(tensors: Tensors, out: Path, expected: NDArray[np.float64], units: float = UNITS) -> list[str]:
    """Name the first tensors that are further from mergekit's than so many units for each element explain."""
    actual = projections(tensors, tokens_of(out))
    if actual.shape != expected.shape:
        return [f"{actual.size} tensors; mergekit's output has {expected.size}"]
    allowed = tolerances(tensors, units)
    apart = np.abs(actual - expected)
    names = sorted(tensors)
    return [
        f"{names[number]} is {apart[number] / allowed[number] * units:.3g} units from mergekit's"
        for number in np.flatnonzero(apart > allowed)[:3]
    ]
