"""Recipes of which stores of task vectors are made, for the tests of stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.vectors import make_vectors
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from tests.checkpoints import write_recipe
from tests.crash import tree_bytes


@dataclass(frozen=True)
class Pruning:
    """A method with parameters that decide what models keep, and with others that do not."""

    method: str
    model: dict[str, Any] = field(default_factory=dict)
    """Parameters of each model."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Parameters of the merge."""
    free: dict[str, list[Any]] = field(default_factory=dict)
    """Values of parameters of the merge that may be others than when the store was made."""


_SUM = {"lambda": [1.0, 0.3], "normalize": [True, False]}
_SCALED = {**_SUM, "rescale": [True, False]}
_BY_LAYER = [{"filter": "q_proj", "value": 0.2}, {"value": 0.6}]

PRUNINGS: dict[str, Pruning] = {
    "cabs": Pruning("cabs", {"n": 3, "m": 8}),
    "cabs by tensor": Pruning("cabs", {"n": [{"filter": "q_proj", "value": 1}, {"value": 5}], "m": 7}),
    "cabs that shares": Pruning("cabs", {"n": 5, "m": 8}, {"overlap": "minimize"}, {"consensus": ["ties", "sum"]}),
    "cabs alone": Pruning("cabs", {"n": 5, "m": 64}, {"conflict_aware": False}, {"consensus": ["ties", "sum"]}),
    "cabs by magnitude": Pruning("cabs", {"n": 1, "m": 3}, {"balanced": False}),
    "cabs by kernel": Pruning("cabs", {"n": 1, "m": 2}, {"granularity": "kernel"}),
    "nm_pruning": Pruning("nm_pruning", {"n": 1, "m": 3}, {}, {"consensus": ["ties", "sum"]}),
    "task_arithmetic": Pruning("task_arithmetic", {}, {}, _SUM),
    "ties": Pruning("ties", {"density": _BY_LAYER}, {}, _SCALED),
    "magnitude": Pruning("magnitude", {"density": [0.1, 0.9]}, {}, _SCALED),
    "dare_linear": Pruning("dare_linear", {"density": 0.5}, {}, _SCALED),
    "dare_ties": Pruning("dare_ties", {"density": _BY_LAYER}, {}, _SCALED),
    "breadcrumbs": Pruning("breadcrumbs", {"density": 0.5, "gamma": 0.2}, {}, _SCALED),
    "breadcrumbs_ties": Pruning("breadcrumbs_ties", {"density": 1.0}, {}, _SCALED),
    "della": Pruning("della", {"density": 0.5, "epsilon": 0.2}, {}, _SCALED),
    "della_linear": Pruning("della_linear", {"density": _BY_LAYER, "epsilon": 0.1}, {}, _SCALED),
}
"""Every method of which stores can be made, with its options."""


def written(path: Path, pruning: Pruning, base: Path, models: list[Path], weights: list[Any], **changes: Any) -> Path:
    """Write a recipe; `changes` are keys of it, those of `parameters` being added to the pruning's."""
    entries = [
        {"model": str(model), "parameters": {"weight": weight, **pruning.model}}
        for model, weight in zip(models, weights, strict=True)
    ]
    parameters = {**pruning.shared, **changes.pop("parameters", {})}
    content = {"merge_method": pruning.method, "base_model": str(base), "models": entries, "parameters": parameters}
    return write_recipe(path, **{**content, **changes})


def store(recipe: Path, output: Path, *, workers: int = 1, **options: Any) -> dict[str, Any]:
    """Make a store."""
    return make_vectors(recipe, output, PlanOptions(**options), RunOptions(workers=workers))


def merged(recipe: Path, output: Path, *, workers: int = 1, **options: Any) -> Path:
    """Merge; give the output."""
    merge(recipe, output, PlanOptions(**options), RunOptions(workers=workers))
    return output


def assert_same_model(expected: Path, actual: Path) -> None:
    """Compare two outputs byte by byte, but for what says how each was made."""
    theirs, ours = tree_bytes(expected), tree_bytes(actual)
    assert theirs.keys() == ours.keys()
    assert [] == [name for name in theirs if theirs[name] != ours[name] and name not in HOW_IT_WAS_MADE]


HOW_IT_WAS_MADE = {
    "README.md", "dovetail_manifest.json", "dovetail_inputs.json", "dovetail_recipe.yml",
}  # fmt: skip
"""Files of an output that say how it was made."""
