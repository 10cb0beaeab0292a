"""The family ``base + lambda * sum(weight * s(tau) * agrees) / divisor``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.oracles.result import Case, Doubles, Floats, Mask, Result, add_up, largest, partial_sums


@dataclass(frozen=True)
class Member:
    """What tells the members of the family apart."""

    keep: Callable[[Case, int, Floats], Mask | None] | None
    """Selects what a model keeps of its task vector; None where it keeps all, without rescaling."""
    elects: bool
    """Whether the sign of the sum decides which contributions count (TIES, arXiv:2306.01708)."""
    normalize: bool
    """Default of `normalize`."""
    rescale: bool
    """Default of `rescale`."""
    more: tuple[tuple[str, float], ...] = ()
    """Defaults of further parameters of models."""


def strongest_first(values: Floats) -> np.ndarray:
    """Order flat indices by magnitude, the largest first; equal ones by index."""
    return np.argsort(-np.abs(values.ravel()), kind="stable")


def marked(shape: tuple[int, ...], indices: np.ndarray) -> Mask:
    """Make a mask of flat indices."""
    mask = np.zeros(int(np.prod(shape, dtype=np.int64)), bool)
    mask[indices] = True
    return mask.reshape(shape)


def keep_largest(case: Case, model: int, tau: Floats) -> Mask | None:
    """Keep int(density * L) elements, but one at least unless density is 0 (TIES, arXiv:2306.01708)."""
    density = float(case.model_parameters[model]["density"])
    if density >= 1:
        return None
    count = 0 if density <= 0 else max(1, int(density * tau.size))
    return marked(tau.shape, strongest_first(tau)[:count])


def keep_breadcrumbs(case: Case, model: int, tau: Floats) -> Mask | None:
    """Drop int(gamma * L) outliers, then keep int(density * L) (arXiv:2312.06795).

    Density decides where both cannot be: fewer outliers are dropped, and none with density 1.
    """
    density, gamma = (float(case.model_parameters[model][name]) for name in ("density", "gamma"))
    if density >= 1:
        return None
    count = int(density * tau.size)
    outliers = min(int(gamma * tau.size), tau.size - count)
    return marked(tau.shape, strongest_first(tau)[outliers : outliers + count])


def dare_probability(case: Case, model: int, tau: Floats) -> Doubles:
    """Keep everything alike, with probability density (arXiv:2311.03099)."""
    density = float(case.model_parameters[model]["density"])
    return np.full(tau.shape, min(max(density, 0.0), 1.0))


def della_probability(case: Case, model: int, tau: Floats) -> Doubles:
    """Keep the largest of a row with probability density + epsilon, the smallest with density - epsilon, and those
    between by their rank (arXiv:2406.11617).

    Rows run along the second axis, whatever the number of axes; a vector is one row. An element that is alone in its
    row is kept with probability density (mergekit divides zero by zero there, and fails).
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
"""Probabilities with which methods with random masks keep elements."""


def keep_at_random(case: Case, model: int, tau: Floats) -> Mask | None:
    """Keep by given masks, or by given numbers and the method's probabilities."""
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
"""Members by name."""

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
"""Parameters that are not given."""

NEGLIGIBLE = 1e-7
"""Sums of magnitudes below this are not rescaled."""


def rescale_factor(tau: Floats, mask: Mask) -> np.float32:
    """Factor that gives what is kept the sum of magnitudes of the whole."""
    whole = float(np.sum(np.abs(tau), dtype=np.float64))
    kept = float(np.sum(np.abs(tau[mask]), dtype=np.float64))
    return np.float32(1) if whole < NEGLIGIBLE or kept < NEGLIGIBLE else np.float32(whole / kept)


def task_vector_method(case: Case) -> Result:
    """Merge by the member of the family that `case` names."""
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
