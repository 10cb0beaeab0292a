"""Methods that select elements by statistics over models or over rows."""

from __future__ import annotations

import numpy as np

from tests.oracles.result import Case, Doubles, Floats, Mask, Result, add_up, largest, partial_sums, spacing
from tests.oracles.task_vectors import marked, strongest_first


def variance(taus: tuple[Floats, ...]) -> Floats:
    """Compute the variance over models at each element, in two passes in float64, rounded to float32."""
    stack = np.array(taus, np.float64)
    return np.asarray(np.mean((stack - np.mean(stack, axis=0)) ** 2, axis=0)).astype(np.float32)


NEAR = 8
"""Scores that differ by fewer units in the last place may be in another order in another implementation."""


def sce_mask(taus: tuple[Floats, ...], share: float) -> tuple[Mask, Mask]:
    """Select the share with the largest variances among the elements where models differ; mark doubtful elements."""
    spread = variance(taus)
    count = int(int(np.count_nonzero(spread)) * share) if share > 0 else 0
    order = strongest_first(spread)
    doubtful = np.zeros(spread.shape, bool)
    if 0 < count < spread.size:
        last, next_one = (spread.ravel()[order[i]] for i in (count - 1, count))
        near = NEAR * spacing(last)
        if 0 < last - next_one <= near:
            doubtful = np.abs(spread - last) <= 2 * near
    return marked(spread.shape, order[:count]), doubtful


def sce(case: Case) -> Result:
    """Select by variance, weigh models by mean squares, and erase minority signs (arXiv:2408.07990)."""
    taus, share = case.taus(), float(case.parameters["select_topk"])
    mask, doubtful = np.ones(case.origin.shape, bool), None
    if share < 1:
        mask, doubtful = sce_mask(taus, share)
        taus = tuple(np.where(mask, tau, np.float32(0)) for tau in taus)
    squares = [float(np.mean(tau.astype(np.float64) ** 2)) if tau.size else 0.0 for tau in taus]
    total = sum(squares)
    weights = [np.float32(1 / len(taus) if total < 1e-6 else each / total) for each in squares]
    positive = add_up(taus) >= 0
    agrees = [np.where(positive, tau > 0, tau < 0) for tau in taus]
    zero = np.float32(0)
    contributions = [np.where(yes, weight * tau, zero) for yes, weight, tau in zip(agrees, weights, taus, strict=True)]
    divisor = add_up([np.where(yes, weight, zero) for yes, weight in zip(agrees, weights, strict=True)])
    divisor = np.maximum(divisor, np.float32(1e-6))
    output = np.asarray(case.origin + add_up(contributions) / divisor)
    operands = largest(output, case.origin, *(each / divisor for each in partial_sums(contributions)))
    return Result(output, operands, (mask,) * len(taus), exact=False, doubtful=doubtful)


def _shares(rows: Doubles) -> Doubles:
    """Compute the softmax of every row, plus 1e-8."""
    powers = np.exp(rows - np.max(rows, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True) + 1e-8


def importance(base: Floats, model: Floats) -> Floats:
    """Multiply each change's magnitude by the Kullback-Leibler divergence of the softmax of its row, at least 0."""
    p, q = (_shares(each.astype(np.float64)) for each in (model, base))
    divergence = np.maximum(np.sum(p * np.log(p / q), axis=-1, keepdims=True), 0.0)
    return np.abs(model - base) * divergence.astype(np.float32)


def fusion_threshold(scores: Floats) -> np.float32:
    """Compute the median plus 1.5 times the distance of the quartiles; each is the element at int(q * (L - 1))."""
    ordered = np.sort(scores.ravel())
    lower, median, upper = (ordered[int(q * (ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    return np.float32(median + np.float32(1.5) * np.float32(upper - lower))


def arcee_fusion(case: Case) -> Result:
    """Take the other model's elements where their importance is far above the median."""
    base, model = case.origin, case.models[0]
    flat = base.reshape(1) if base.ndim == 0 else base
    scores = importance(flat, model.reshape(flat.shape)).reshape(base.shape)
    threshold = fusion_threshold(scores)
    mask = scores >= threshold
    distance = np.abs(scores - threshold)
    doubtful = (distance > 0) & (distance <= NEAR * spacing(threshold))
    output = np.asarray(base + np.where(mask, model - base, np.float32(0)))
    return Result(output, largest(output, base, model), (mask,), exact=False, doubtful=doubtful)
