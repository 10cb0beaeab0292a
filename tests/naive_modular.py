"""The losses and measures of modular networks, by double loops over samples, in numpy and plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Layers = Sequence[NDArray[np.float64]]


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Give the cosine of two vectors; 0 if one of them has no direction."""
    lengths = [math.sqrt(sum(float(x) ** 2 for x in vector)) for vector in (a, b)]
    if min(lengths) <= 1e-8:
        return 0.0
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / (lengths[0] * lengths[1])


def pair_losses(layers: Layers, labels: Sequence[int]) -> tuple[float, float]:
    """Give cohesion (or affinity) and coupling (or dispersion)."""
    apart, alike = [], []
    for layer in layers:
        same, other = [], []
        for i in range(len(labels)):
            for j in range(i + 1, len(labels)):
                (same if labels[i] == labels[j] else other).append(cosine(layer[i], layer[j]))
        apart.append(1 - sum(same) / len(same) if same else 0.0)
        alike.append(sum(other) / len(other) if other else 0.0)
    return sum(apart) / len(apart), sum(alike) / len(alike)


def contrastive(layers: Layers, labels: Sequence[int], temperature: float) -> float:
    """Give InfoNCE: of each sample that has company of its class, how much of the weight of all others is there."""
    means = []
    for layer in layers:
        terms = []
        for i in range(len(labels)):
            weights = {j: math.exp(cosine(layer[i], layer[j]) / temperature) for j in range(len(labels)) if j != i}
            near = [weight for j, weight in weights.items() if labels[j] == labels[i]]
            if near:
                terms.append(-math.log(sum(near) / sum(weights.values())))
        means.append(sum(terms) / len(terms) if terms else 0.0)
    return sum(means) / len(means)


def jaccard(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Give the Jaccard index of two sets; 1 for two empty ones."""
    first, second = set(np.flatnonzero(a).tolist()), set(np.flatnonzero(b).tolist())
    return len(first & second) / len(first | second) if first | second else 1.0
