"""Comparing a merge with its golden result, in units in the last place of the largest operand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.golden.exceptions import ROUNDING, TRAPS
from tests.oracles.recipes import merge_recipe
from tests.oracles.result import Result, spacing

FOLDER = Path(__file__).parent
CASES = tuple(sorted(path.stem for path in FOLDER.glob("*.yml")))
"""Cases whose golden results are mergekit's."""
PAPERS = tuple(sorted(f"papers/{path.stem}" for path in (FOLDER / "papers").glob("*.yml")))
"""Cases of methods that mergekit lacks, whose golden results are what the papers' formulas give in torch."""

Tensors = Mapping[str, NDArray[Any]]


def recipe_path(case: str) -> Path:
    """Give a case's recipe."""
    return FOLDER / f"{case}.yml"


def method_of(case: str) -> str:
    """Give the method of a case's recipe."""
    return str(yaml.safe_load(recipe_path(case).read_text())["merge_method"])


@cache
def oracle_results(case: str) -> Mapping[str, Result]:
    """Merge a case by the oracles."""
    return merge_recipe(recipe_path(case))


def units(case: str, tensors: Tensors, ending: str = "") -> dict[str, float]:
    """Compare tensors with the golden ones, and give the greatest difference of each.

    Parameters
    ----------
    case
        The case.
    tensors
        What is compared with its golden file.
    ending
        ``.float64`` for mergekit's result in float64.

    Returns
    -------
    dict
        By tensor, the greatest ``|a - b| / spacing(operand)``, where `spacing` is the distance to the next float32 and
        the operand is the largest magnitude on the way to that element: of the models' and the base's values there, a
        model's contribution, partial sums of contributions, the values compared.

    """
    golden = load_file(FOLDER / f"{case}{ending}.safetensors")
    assert sorted(golden) == sorted(tensors)
    results, found = oracle_results(case), {}
    for name, expected in golden.items():
        actual = tensors[name]
        assert expected.shape == actual.shape
        assert np.float32 == expected.dtype == actual.dtype
        difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
        operands = np.maximum(results[name].operands, np.maximum(np.abs(expected), np.abs(actual)))
        found[name] = float(np.max(difference / spacing(operands), initial=0))
    return found


def check(case: str, tensors: Tensors) -> None:
    """Compare tensors with the golden ones, within what the table of exceptions allows."""
    found = units(case, tensors)
    if case in TRAPS:
        for name in TRAPS[case].tensors:
            found.pop(name)
    assert max(found.values()) <= ROUNDING.get(case, 2)
    if case in ROUNDING:
        assert max(units(case, tensors, ".float64").values()) <= 3


def exception_is_needed(case: str, tensors: Tensors) -> bool:
    """Whether tensors, or the oracle's, differ from the golden ones by more than 2 units where an exception says so."""
    by_oracle = {name: result.output for name, result in oracle_results(case).items()}
    for each in (tensors, by_oracle):
        found = units(case, each)
        if min(found[name] for name in TRAPS[case].tensors) > 2 if case in TRAPS else max(found.values()) > 2:
            return True
    return False
