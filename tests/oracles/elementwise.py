"""Methods that compute an element from the same element of every model."""

from __future__ import annotations

import numpy as np

from tests.oracles.result import Case, Doubles, Floats, Result, add_up, largest, partial_sums


def linear(case: Case) -> Result:
    """Sum whole models by weight and, with `normalize`, divide by the sum of the weights (arXiv:2203.05482)."""
    weights = [np.float32(weight) for weight in case.each("weight")]
    contributions = [weight * model for weight, model in zip(weights, case.models, strict=True)]
    total = add_up(contributions)
    divisor = add_up(weights) if case.parameters["normalize"] else np.float32(1)
    output = np.asarray(total / divisor, np.float32)
    return Result(output, largest(output, *(each / divisor for each in partial_sums(contributions))))


def passthrough(case: Case) -> Result:
    """Take the only model, times `scale` if it is given."""
    scale = case.each("scale")[0]
    model = case.models[0]
    output = model if scale is None else np.asarray(np.float32(scale) * model)
    return Result(output, largest(output))


def nearswap(case: Case) -> Result:
    """Move each element towards the other model's, by the part t / distance of the way, at most all of it."""
    base, other = case.origin, case.models[0]
    t = np.float32(case.parameters["t"])
    distance = np.maximum(np.abs(base - other), np.float32(1e-6))
    share = np.clip(t / distance, np.float32(0), np.float32(1))
    to_other, to_base = share * other, (np.float32(1) - share) * base
    output = np.asarray(to_other + to_base)
    return Result(output, largest(output, to_other, to_base))


def ram(case: Case) -> Result:
    """Keep the changes that only one model makes, and average those that several make (arXiv:2601.13572)."""
    return _reinforced(case, [np.float32(1)] * len(case.models))


def ramplus_tl(case: Case) -> Result:
    """Merge as `ram` does, but enlarge a model's unique changes by its ratio of shared changes (arXiv:2601.13572)."""
    changed, counts = _changes(case)
    r, alpha, epsilon = (float(case.parameters[name]) for name in ("r", "alpha", "epsilon"))
    factors = []
    for mask in changed:
        shared, unique = int(np.sum(mask & (counts > 1))), int(np.sum(mask & (counts == 1)))
        ratio = shared / max(unique, epsilon)
        factors.append(np.float32(1 + r * min(ratio, alpha)))
    return _reinforced(case, factors)


def _changes(case: Case) -> tuple[list[np.ndarray], np.ndarray]:
    """Find the elements that each model changes by more than epsilon, and the number of models that change each."""
    threshold = np.float32(case.parameters["epsilon"])
    changed = [np.abs(tau) > threshold for tau in case.taus()]
    return changed, np.sum(np.array(changed, np.int64), axis=0)


def _reinforced(case: Case, factors: list[np.float32]) -> Result:
    changed, counts = _changes(case)
    shares = np.maximum(counts, 1).astype(np.float32)
    contributions: list[Floats] = []
    for tau, mask, factor in zip(case.taus(), changed, factors, strict=True):
        kept = np.where(counts > 1, tau / shares, tau * factor)
        contributions.append(np.where(mask, kept, np.float32(0)))
    output = np.asarray(case.origin + add_up(contributions))
    operands: Doubles = largest(output, case.origin, *partial_sums(contributions))
    return Result(output, operands, tuple(changed))


def consensus_ta(case: Case) -> Result:
    """Sum task vectors where at least k of them stand out from the rest of the sum (arXiv:2405.07813).

    A task vector stands out where its magnitude exceeds lambda_t times its distance from the sum.
    """
    taus, weights = case.taus(), [np.float32(weight) for weight in case.each("weight")]
    contributions = [weight * tau for weight, tau in zip(weights, taus, strict=True)]
    total = add_up(contributions)
    stands_out = [
        np.abs(tau) > np.float32(scale) * np.abs(total - tau)
        for tau, scale in zip(taus, case.each("tall_mask_lambda"), strict=True)
    ]
    agreed = np.sum(np.array(stands_out, np.int64), axis=0) >= int(case.parameters["k"])
    change = np.where(agreed, total, np.float32(0)) * np.float32(case.parameters["lambda"])
    output = np.asarray(case.origin + change)
    return Result(output, largest(output, case.origin, *partial_sums(contributions)), (agreed,) * len(taus))
