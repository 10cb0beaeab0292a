"""The merges that `quality.py` compares: methods with the settings that each may choose between, and by which factor.

The change that a merge makes to the base is a common factor times a fixed change. The factor is `lambda`, or the weight
of all models in methods that have no `lambda`. So one merge by the library gives all candidates of a setting. Factors
are chosen on a grid of *strengths*: a strength of 1 is the factor at which the change is as long as that of task
arithmetic with factor 1. The same grid then suits a method that keeps a tenth of the changes, and one that keeps all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.engine import PlanOptions, merge_tensors

if TYPE_CHECKING:
    from quality_models import State

STRENGTHS: Final = tuple(round(0.1 * 1.2**step, 4) for step in range(20))
"""Strengths from 0.1 to 3.2: as many as a method may try, over all of its settings."""
MARGIN: Final = 0.03
"""The search goes on in a direction until it is worse than the best by as much accuracy."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to merge, but for the factor."""

    family: str
    """What the table calls the method."""
    label: str
    """What sets it apart from others of its family."""
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    fixed: bool = False
    """Whether the method says itself how far to go, so that there is no weight to search."""

    @property
    def name(self) -> str:
        """Give family and label."""
        return f"{self.family} {self.label}".strip()


def _pruned(family: str, method: str, **more: Any) -> tuple[Setting, ...]:
    blocks = ((3, 32), (64, 256))
    return tuple(Setting(family, f"{n}:{m}", method, {"n": n, "m": m, **more}) for n, m in blocks)


def _thinned(family: str, method: str, **more: Any) -> tuple[Setting, ...]:
    densities = ((0.09375, "9%"), (0.25, "25%"))
    return tuple(Setting(family, label, method, {"density": density, **more}) for density, label in densities)


SETTINGS: Final = (
    Setting("task arithmetic", "", "task_arithmetic"),
    *_thinned("magnitude", "magnitude"),
    *_pruned("n:m", "nm_pruning"),
    *_pruned("CABS", "cabs"),
    *_pruned("CABS, not balanced", "cabs", balanced=False),
    *_thinned("TIES", "ties"),
    *_thinned("DARE", "dare_linear"),
    *_thinned("DARE-TIES", "dare_ties"),
    Setting("TSV-M", "", "tsv_m"),
    Setting("ISO-C", "", "iso_c"),
    Setting("consensus TA", "0.2", "consensus_ta", {"tall_mask_lambda": 0.2}),
    Setting("consensus TA", "0.4", "consensus_ta", {"tall_mask_lambda": 0.4}),
    Setting("model stock", "", "model_stock", fixed=True),
    Setting("model stock", "by row", "model_stock", {"filter_wise": True}, fixed=True),
)
"""All that is compared. CABS is conflict-aware and balanced; n:m is balanced alone, CABS that is not balanced is
conflict-aware alone, and magnitude is neither: together they say what each half does."""

PRUNERS: Final = ("magnitude", "n:m", "CABS", "CABS, not balanced")
"""Families that keep the strongest changes, at the same two densities."""


EXPLORED: Final = (
    Setting("magnitude", "50%", "magnitude", {"density": 0.5}),
    Setting("n:m", "128:256", "nm_pruning", {"n": 128, "m": 256}),
    Setting("CABS", "128:256 minimize", "cabs", {"n": 128, "m": 256, "overlap": "minimize"}),
    Setting("CABS", "128:256 minimize ties", "cabs", {"n": 128, "m": 256, "overlap": "minimize", "consensus": "ties"}),
    Setting("CABS", "16:256", "cabs", {"n": 16, "m": 256}),
)
"""Further densities, to see which way accuracy goes; no method may choose them."""


def families(settings: Sequence[Setting] = SETTINGS) -> dict[str, list[Setting]]:
    """Give the settings by family, in order."""
    found: dict[str, list[Setting]] = {}
    for setting in settings:
        found.setdefault(setting.family, []).append(setting)
    return found


def strengths(setting: Setting) -> tuple[float, ...]:
    """Give the strengths that a setting may try: the settings of every method share the same number of them."""
    return STRENGTHS[:: 1 if len(families()[setting.family]) == 1 else 2]


def change_of(
    setting: Setting, base: State, models: Sequence[State], weight: Any = 1.0, seed: int = 0, **more: Any
) -> State:
    """Merge by the library, and give what that changes in the base.

    Parameters
    ----------
    setting
        How.
    base, models
        Tensors in float32.
    weight
        One for all models, or one of each.
    seed
        Of random masks.
    more
        Further parameters.

    """
    weights = {} if setting.fixed else {"weight": weight}
    parameters = {**setting.parameters, **weights, **more}
    options = PlanOptions(seed=seed)
    merged = merge_tensors(setting.method, list(models), base, parameters=parameters, options=options, workers=1)
    return {name: merged[name] - base[name] for name in base}


def length(change: State) -> float:
    """Give the Euclidean length of a change, all tensors together."""
    return float(np.sqrt(sum(float(each.double().square().sum()) for each in change.values())))


def plus(base: State, changes: Sequence[State], weights: Sequence[float]) -> State:
    """Add weighted changes to the base."""
    made = {}
    for name, tensor in base.items():
        made[name] = tensor.clone()
        for change, weight in zip(changes, weights, strict=True):
            made[name].add_(change[name], alpha=weight)
    return made


def search(score: Callable[[float], tuple[float, float]], grid: Sequence[float]) -> tuple[float, dict[float, float]]:
    """Find the best value of a grid, from its middle outwards, as far in each direction as there is hope.

    Parameters
    ----------
    score
        Gives accuracy and loss of a value; equal accuracies are told apart by loss.
    grid
        Ascending values.

    Returns
    -------
    tuple
        The best value, and the accuracies of all that were tried.

    """
    tried: dict[float, tuple[float, float]] = {}

    def walk(places: range) -> None:
        for place in places:
            accuracy, loss = score(grid[place])
            tried[grid[place]] = (accuracy, -loss)
            if accuracy < max(tried.values())[0] - MARGIN:
                return

    middle = len(grid) // 2
    walk(range(middle, len(grid)))
    walk(range(middle - 1, -1, -1))
    best = max(tried, key=lambda value: tried[value])
    return best, {value: found[0] for value, found in sorted(tried.items())}


def overlap(kept: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Give the mean over ordered pairs of models of the share of one's kept changes that the other keeps too."""
    counts = [sum(int(mask.sum()) for mask in model.values()) for model in kept]
    shares = [
        sum(int((one[name] & other[name]).sum()) for name in one) / max(1, count)
        for place, (one, count) in enumerate(zip(kept, counts, strict=True))
        for further, other in enumerate(kept)
        if further != place
    ]
    return float(np.mean(shares))


def imbalance(kept: Mapping[str, np.ndarray], block: int = 256) -> float:
    """Give the standard deviation over blocks of the number of kept changes, relative to its mean.

    Blocks without any kept change, such as rows of an embedding whose word no text has, are not counted.
    """
    counts = [
        mask.reshape(-1)[: mask.size // block * block].reshape(-1, block).sum(1)
        for mask in kept.values()
        if mask.size >= block
    ]
    every = np.concatenate(counts)
    every = every[every > 0]
    return float(every.std() / every.mean()) if every.size else 0.0
