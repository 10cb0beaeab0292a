"""Figures of task vectors, of one tensor or of several together, from sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dovetail.engine.actions.analysis_table import ALONE, IN_TURN, pairs_of
from dovetail.engine.output.places import ratio


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What one model's task vector is like: fine-tuned minus base. Shares are from 0 to 1, and NaN of nothing."""

    elements: int
    """Elements of the tensors that it has in common with the base model."""
    norm: float
    """Norm of the task vector."""
    relative_norm: float
    """The same over the norm of the base model."""
    base_cosine: float
    """Cosine between the task vector and the base model."""
    unchanged: float
    """Share of elements whose change is zero, in float32."""
    below_bfloat16: float
    """Share of the changes that are lost where the model and the base model are rounded to bfloat16."""
    strongest: tuple[float, ...]
    """Share of the energy (sum of squares) in the strongest 1, 10 and 25% of every tensor's elements."""
    density: tuple[float, float]
    """Share of elements that n:m pruning keeps: of the model alone, and after the models before it, of which it takes
    no element (CABS)."""
    energy: tuple[float, float]
    """Share of the energy in these."""
    nonfinite: int
    """NaN and infinite elements, which count as unchanged."""


@dataclass(frozen=True, slots=True)
class PairFigures:
    """How two models' task vectors lie to each other, in the tensors that both have. NaN where there is nothing."""

    elements: int
    """Elements of these tensors."""
    cosine: float
    """Cosine between the task vectors."""
    distance: float
    """Norm of their difference over the lesser of both norms."""
    differing: int
    """Elements at which the changes differ, in float32."""
    both_changed: float
    """Share of elements that both change."""
    sign_conflict: float
    """Of these, the share that they change in opposite directions."""
    weighted_conflict: float
    """The same with every element weighed by the product of both changes' magnitudes."""
    overlap: float
    """Where n:m pruning keeps each model's changes for itself: elements that both keep over those that either keeps."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one tensor, or of several together."""

    models: tuple[ModelFigures, ...]
    """One for each model."""
    pairs: tuple[PairFigures, ...]
    """One for each pair: the first and the second model, the first and the third, and so on."""

    def to_json(self) -> dict[str, Any]:
        """Give the figures as a JSON object, with None for NaN."""
        return {
            "models": [_plain(asdict(each)) for each in self.models],
            "pairs": [_plain(asdict(each)) for each in self.pairs],
        }


def figures(record: Any) -> Figures:
    """Turn the sums of one or several tensors into figures."""
    count = len(record["elements"])
    return Figures(
        tuple(_of_model(record, model) for model in range(count)),
        tuple(_of_pair(record, pair) for pair in range(len(pairs_of(count)))),
    )


def _of_model(record: Any, model: int) -> ModelFigures:
    elements, square = int(record["elements"][model]), float(record["square"][model])
    changed, base_square = elements - int(record["zeros"][model]), float(record["base_square"][model])
    ways = (ALONE, IN_TURN)
    return ModelFigures(
        elements=elements,
        norm=math.sqrt(square),
        relative_norm=math.sqrt(ratio(square, base_square)),
        base_cosine=ratio(float(record["base_product"][model]), math.sqrt(square) * math.sqrt(base_square)),
        unchanged=ratio(int(record["zeros"][model]), elements),
        below_bfloat16=ratio(int(record["below"][model]), changed),
        strongest=tuple(ratio(float(each), square) for each in record["strongest"][model]),
        density=tuple(ratio(int(record["kept"][model][way]), elements) for way in ways),  # type: ignore[arg-type]
        energy=tuple(ratio(float(record["kept_square"][model][way]), square) for way in ways),  # type: ignore[arg-type]
        nonfinite=int(record["nonfinite"][model]),
    )


def _of_pair(record: Any, pair: int) -> PairFigures:
    i, j = pairs_of(len(record["elements"]))[pair]
    elements, both, opposite, differing, common = (int(each) for each in record["pairs"][pair])
    product, opposed, first, second = (float(each) for each in record["products"][pair])
    kept = int(record["kept"][i][ALONE]) + int(record["kept"][j][ALONE])
    return PairFigures(
        elements=elements,
        cosine=ratio(product, math.sqrt(first) * math.sqrt(second)),
        distance=math.sqrt(max(0.0, ratio(first + second - 2 * product, min(first, second)))) if differing else 0.0,
        differing=differing,
        both_changed=ratio(both, elements),
        sign_conflict=ratio(opposite, both),
        weighted_conflict=ratio(opposed, product + 2 * opposed),
        overlap=ratio(common, kept - common),
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write NaN, which JSON lacks, as None."""

    def one(value: Any) -> Any:
        if isinstance(value, tuple):
            return [one(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: one(value) for name, value in values.items()}
