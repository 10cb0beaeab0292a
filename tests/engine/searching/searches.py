"""Small searches for tests: the family's recipe with marks, and evaluators of which the optimum is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.searching.options import SearchOptions
from tests.engine.conftest import Family

TARGET = {"math": 0.7, "code": 0.4}
"""The weights that are best by `losses`."""


def marked(family: Family, **changes: Any) -> dict[str, Any]:
    """Give a recipe of task arithmetic in float32 that searches the weights of both fine-tunes."""
    models = [
        {"model": str(family.home / name), "parameters": {"weight": {"search": [0.1, 2.0]}}}
        for name in ("math", "code")
    ]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(family.base), "models": models, "dtype": "float32"}
    return recipe | changes


def in_memory(**changes: Any) -> SearchOptions:
    """Give the options of a quick search without folders."""
    return SearchOptions(**({"budget": 20, "given": "arrays"} | changes))


class Weights:
    """Finds out the weights of a merge by task arithmetic from its tensors.

    Parameters
    ----------
    family
        The models.

    """

    def __init__(self, family: Family) -> None:
        from tests.checkpoints import read_output

        base, math, code = (read_output(path) for path in (family.base, family.math, family.code))
        self.base = _flat(base)
        self.changes = np.stack([_flat(each) - self.base for each in (math, code)], axis=1)
        self.calls = 0

    def of(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Give the two weights."""
        found, *_ = np.linalg.lstsq(self.changes, _flat(tensors) - self.base, rcond=None)
        return found

    def losses(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Give a loss for each task, least at `TARGET`; both grow if either weight is wrong."""
        self.calls += 1
        wrong = (self.of(tensors) - list(TARGET.values())) ** 2
        return {"math": 1.0 + float(wrong[0] + wrong[1] / 4), "code": 1.0 + float(wrong[1] + wrong[0] / 4)}


def _flat(tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([tensors[name].astype(np.float64).ravel() for name in sorted(tensors)])


def history_of(output: Path) -> bytes:
    """Read the history of a finished search."""
    return (output / "history.json").read_bytes()
