"""The family ``base + lambda * sum(weight * s(tau) * agrees) / divisor``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.oracles.result import Case, Doubles, Floats, Mask, Result, add_up, largest, partial_sums


@dataclass(frozen=True)
class Member:
    """The differences between the members of the family."""

    keep: Callable[[Case, int, Floats], Mask | None] | None
    """Selects the elements that a model keeps of its task vector; None if it keeps all, without rescaling."""
    elects: bool
    """Whether the sign of the sum decides which contributions count (TIES, arXiv:2306.01708)."""
    normalize: bool
    """Default of `normalize`."""
    rescale: bool
    """Default of `rescale`."""
    more: tuple[tuple[str, float], ...] = ()
    """Further parameters of models, with their defaults."""


def strongest_first(values: Floats) -> np.ndarray:
    """Order flat indices by magnitude, the largest first, and equal magnitudes by index."""
    return np.argsort(-np.abs(values.ravel()), kind="stable")


def marked(shape: tuple[int, ...], indices: np.ndarray) -> Mask:
    """Make a mask from flat indices."""
    mask = np.zeros(int(np.prod(shape, dtype=np.int64)), bool)
    mask[indices] = True
    return mask.reshape(shape)


def keep_largest(case: Case, model: int, tau: Floats) -> Mask | None:
    """Keep int(density * L) elements, but at least one unless density is 0 (TIES, arXiv:2306.01708)."""
    density = float(case.model_parameters[model]["density"])
    if density >= 1:
        return None
    count = 0 if density <= 0 else max(1, int(density * tau.size))
    return marked(tau.shape, strongest_first(tau)[:count])


def keep_breadcrumbs(case: Case, model: int, tau: Floats) -> Mask | None:
    """Drop int(gamma * L) outliers, then keep int(density * L) (arXiv:2312.06795).

    If L is too small for both, fewer outliers are dropped; with density 1, none are.
    """
    density, gamma = (float(case.model_parameters[model][name]) for name in ("density", "gamma"))
    if density >= 1:
        return None
    count = int(density * tau.size)
    outliers = min(int(gamma * tau.size), tau.size - count)
    return marked(tau.shape, strongest_first(tau)[outliers : outliers + count])


def dare_probability(case: Case, model: int, tau: Floats) -> Doubles:
    """Keep every element with the same probability, the density (arXiv:2311.03099)."""
    density = float(case.model_parameters[model]["density"])
    return np.full(tau.shape, min(max(density, 0.0), 1.0))


def della_probability(case: Case, model: int, tau: Floats) -> Doubles:
    """Keep elements with a probability that grows with the rank in the row (arXiv:2406.11617).

    It is density - epsilon for the smallest element of a row and density + epsilon for the largest. Rows run along the
    second axis, whatever the number of axes; a vector is one row. An element that is alone in its row is kept with
    probability density (mergekit divides zero by zero there, and fails).
    """
    density, epsilon = (float(case.model_parameters[model][name]) for name in ("density", "epsilon"))
    if density >= 1 or density <= 0:
        return np.full(tau.shape, min(max(density, 0.0), 1.0))
    rows = np.abs(tau).reshape(1, -1) if tau.ndim < 2 else np.abs(tau)
    order = np.argsort(rows, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    last = rows.shape[1] - 1
    share = ranks / last if last else np.full(rows.shape, 0.5)
    return np.asarray(density - epsilon + 2 * epsilon * share).reshape(tau.shape)


PROBABILITIES = {
    "dare_linear": dare_probability,
    "dare_ties": dare_probability,
    "della": della_probability,
    "della_linear": della_probability,
}
"""For each method with random masks, the function that gives the probabilities of keeping elements."""


def keep_at_random(case: Case, model: int, tau: Floats) -> Mask | None:
    """Keep elements by the given masks, or by the given numbers and the probabilities of the method."""
    density = float(case.model_parameters[model]["density"])
    if density >= 1:
        return None
    if density <= 0:
        return np.zeros(tau.shape, bool)
    if case.random_masks is not None:
        return np.asarray(case.random_masks[model], bool).reshape(tau.shape)
    assert case.uniform is not None, "random methods need masks or numbers"
    numbers = [case.uniform(model, index) for index in range(tau.size)]
    return np.array(numbers).reshape(tau.shape) < PROBABILITIES[case.method](case, model, tau)


FAMILY = {
    "task_arithmetic": Member(None, elects=False, normalize=False, rescale=False),
    "ties": Member(keep_largest, elects=True, normalize=True, rescale=False),
    "breadcrumbs": Member(keep_breadcrumbs, elects=False, normalize=False, rescale=False, more=(("gamma", 0.01),)),
    "breadcrumbs_ties": Member(keep_breadcrumbs, elects=True, normalize=False, rescale=False, more=(("gamma", 0.01),)),
    "dare_linear": Member(keep_at_random, elects=False, normalize=False, rescale=True),
    "dare_ties": Member(keep_at_random, elects=True, normalize=False, rescale=True),
    "della": Member(keep_at_random, elects=True, normalize=True, rescale=True, more=(("epsilon", 0.15),)),
    "della_linear": Member(keep_at_random, elects=False, normalize=False, rescale=True, more=(("epsilon", 0.15),)),
}
"""Members of the family by the name of the method."""

DEFAULTS: dict[str, dict[str, Any]] = {
    name: {
        "normalize": member.normalize,
        "rescale": member.rescale,
        "lambda": 1.0,
        "int8_mask": False,
        "density": 1.0,
        **dict(member.more),
    }
    for name, member in FAMILY.items()
}
"""Default values of the parameters of each method."""

NEGLIGIBLE = 1e-7
"""Sums of magnitudes below this are not rescaled."""


def rescale_factor(tau: Floats, mask: Mask) -> np.float32:
    """Compute the factor by which the kept part gets the sum of magnitudes of the whole."""
    whole = float(np.sum(np.abs(tau), dtype=np.float64))
    kept = float(np.sum(np.abs(tau[mask]), dtype=np.float64))
    return np.float32(1) if whole < NEGLIGIBLE or kept < NEGLIGIBLE else np.float32(whole / kept)


def task_vector_method(case: Case) -> Result:
    """Merge a tensor by the member of the family that the case names."""
    member, shape = FAMILY[case.method], case.origin.shape
    weights = [np.float32(weight) for weight in case.each("weight")]
    masks, contributions = [], []
    exact = True
    for model, (tau, weight) in enumerate(zip(case.taus(), weights, strict=True)):
        mask = member.keep(case, model, tau) if member.keep else None
        if mask is None:
            masks.append(np.ones(shape, bool))
            contributions.append(np.asarray(weight * tau))
            continue
        kept = np.where(mask, tau, np.float32(0))
        if case.parameters["rescale"]:
            kept, exact = kept * rescale_factor(tau, mask), False
        masks.append(mask)
        contributions.append(np.asarray(weight * kept))

    if member.elects:
        positive = add_up(contributions) >= 0
        agrees = [np.where(positive, each > 0, each < 0) for each in contributions]
        contributions = [np.where(yes, each, np.float32(0)) for yes, each in zip(agrees, contributions, strict=True)]
        divisor = add_up([np.where(yes, weight, np.float32(0)) for yes, weight in zip(agrees, weights, strict=True)])
        divisor = np.where(divisor == 0, np.float32(1), divisor)
    else:
        total = add_up(weights)
        divisor = np.full(shape, np.float32(1) if abs(total) < np.float32(1e-8) else total, np.float32)
    if not case.parameters["normalize"]:
        divisor = np.ones(shape, np.float32)

    factor = np.float32(case.parameters["lambda"])
    change = (add_up(contributions) / divisor) * factor
    output = np.asarray(case.origin + change)
    largest_contribution = np.abs(largest(*partial_sums(contributions)) / divisor * factor)
    return Result(output, largest(output, case.origin, largest_contribution), tuple(masks), exact)
