"""Random masks of dare and della: their statistics over 1,000 seeds, and what they depend on.

Seeds are fixed, so these tests always give the same answer. Bounds are such that a right generator would fail one of
all the checks together for about one choice of seeds in a thousand.
"""

from __future__ import annotations

from functools import cache
from math import lgamma, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.methods.registry import METHODS
from tests.engine.kernels.cases import JITTED, examples
from tests.engine.methods.probing import both_masks, describe, found_masks, run
from tests.oracles import RANDOM

PRESENT = [name for name in RANDOM if name in METHODS]
DELLA = [name for name in PRESENT if name.startswith("della")]
SEEDS = 1000 if JITTED else 100
SHAPE = (3, 41)
DENSITIES = (0.3, 0.6)
EPSILON = 0.2
ALPHA = 1e-5
"""Probability that one check, of all its elements together, fails for a right generator."""
LIMIT = 6.0
"""Bound of standard scores: fewer than one in 10^8 is beyond."""

Doubles = NDArray[np.float64]


def taus() -> tuple[NDArray[np.float32], ...]:
    """Make two task vectors of whole numbers; the numbers of a row are distinct, and every row has another order."""
    random = np.random.default_rng(5)
    rows = [random.permutation(np.arange(1, SHAPE[1] + 1)) * (row + 1) for row in range(2 * SHAPE[0])]
    whole = np.array(rows, np.float32)
    return whole[: SHAPE[0]], whole[SHAPE[0] :]


def parameters(method: str) -> list[dict[str, Any]]:
    """Give both models' parameters."""
    more = {"epsilon": EPSILON} if method.startswith("della") else {}
    return [{"density": density, **more} for density in DENSITIES]


def probabilities(method: str) -> list[Doubles]:
    """Give the probability of keeping each element: density, or from density - epsilon to + epsilon by rank."""
    if not method.startswith("della"):
        return [np.full(SHAPE, density) for density in DENSITIES]
    shares = [(np.argsort(np.argsort(tau, axis=1), axis=1)) / (SHAPE[1] - 1) for tau in taus()]
    return [density - EPSILON + 2 * EPSILON * share for density, share in zip(DENSITIES, shares, strict=True)]


@cache
def masks(method: str) -> NDArray[np.bool_]:
    """Find the masks for every seed: seed, model, row, column."""
    each = parameters(method)
    return np.array([both_masks(method, taus(), each, seed=seed) for seed in range(SEEDS)])


@cache
def binomial_bounds(count: int, probability: float, alpha: float) -> tuple[int, int]:
    """Give the least and greatest number of successes that are not among the rarest `alpha` at either end."""
    k = np.arange(count + 1)
    log_factorials = np.array([lgamma(i + 1) for i in range(count + 1)])
    logs = log_factorials[-1] - log_factorials - log_factorials[::-1]
    weights = np.exp(logs + k * log(probability) + (count - k) * log(1 - probability))
    below, above = np.cumsum(weights), np.cumsum(weights[::-1])[::-1]
    return int(np.argmax(below > alpha)), int(count - np.argmax(above[::-1] > alpha))


def score(products: Doubles, variances: Doubles) -> float:
    """Compute the standard score of a sum of products of centred values, which has the expectation 0."""
    return float(np.sum(products) / sqrt(np.sum(variances)))


def centred(method: str) -> tuple[Doubles, Doubles]:
    """Give masks less their probabilities (seed, model, element), and the variances (model, element)."""
    expected = np.array(probabilities(method)).reshape(2, -1)
    return masks(method).reshape(SEEDS, 2, -1) - expected, expected * (1 - expected)


@pytest.mark.parametrize("method", PRESENT)
def test_every_element_is_kept_at_its_rate(method: str) -> None:
    """Each element of each model is kept as often as a coin with its probability would come up."""
    counts = np.sum(masks(method), axis=0).reshape(2, -1)
    expected = np.array(probabilities(method)).reshape(2, -1)
    alpha = ALPHA / (2 * counts.size)
    bounds = [binomial_bounds(SEEDS, round(float(each), 12), alpha) for each in expected.ravel()]
    low, high = np.array(bounds).T
    assert np.all((low <= counts.ravel()) & (counts.ravel() <= high))
    deviations, variances = centred(method)
    for model in range(2):
        assert abs(score(deviations[:, model], SEEDS * variances[model])) < LIMIT


@pytest.mark.parametrize("method", PRESENT)
def test_scores_spread_as_they_should(method: str) -> None:
    """Rates are not too good to be true either: standard scores of elements have variance 1."""
    deviations, variances = centred(method)
    scores = np.sum(deviations, axis=0) / np.sqrt(SEEDS * variances)
    assert abs(float(np.mean(scores**2)) - 1) < LIMIT * sqrt(2 / scores.size)


@pytest.mark.parametrize("method", PRESENT)
def test_models_elements_and_seeds_are_independent(method: str) -> None:
    """No correlation between models at one element, near elements of one model, or neighbouring seeds."""
    deviations, variances = centred(method)
    pairs = [(deviations[:, 0] * deviations[:, 1], variances[0] * variances[1])]
    for lag in (1, 2, 4, 8, SHAPE[1]):
        both = deviations[:, :, :-lag] * deviations[:, :, lag:]
        pairs += [(both[:, model], variances[model, :-lag] * variances[model, lag:]) for model in range(2)]
        crossed = deviations[:, 0, :-lag] * deviations[:, 1, lag:]
        pairs.append((crossed, variances[0, :-lag] * variances[1, lag:]))
    seeds = deviations[:-1] * deviations[1:]
    pairs += [(seeds[:, model], variances[model] ** 2) for model in range(2)]
    for products, variance in pairs:
        assert abs(score(products, len(products) * variance)) < LIMIT
        if JITTED:  # sums over few seeds are far from normal
            each = np.sum(products, axis=0) / np.sqrt(len(products) * variance)
            assert np.max(np.abs(each)) < LIMIT


@pytest.mark.parametrize("method", PRESENT)
@pytest.mark.parametrize("seed", range(3))
def test_rescaling_keeps_the_sum_of_magnitudes(method: str, seed: int) -> None:
    """What is kept is enlarged by one factor, so that its magnitudes add up as the whole's: not 1/density."""
    random = np.random.default_rng(seed)
    base, tau = np.zeros(SHAPE, np.float32), random.standard_normal(SHAPE).astype(np.float32)
    each = [{**parameters(method)[0], "weight": 1.0}]
    problem = describe(method, base, [tau], {"rescale": True, "normalize": False}, each, seed=seed)
    merged = run(problem, method, base, [tau])
    assert np.sum(np.abs(tau), dtype=np.float64) == pytest.approx(np.sum(np.abs(merged), dtype=np.float64), rel=1e-6)
    factors = (merged / tau)[merged != 0]
    np.testing.assert_allclose(factors, factors[0], rtol=1e-6)
    plain = describe(method, base, [tau], {"rescale": False, "normalize": False}, each, seed=seed)
    unscaled = run(plain, method, base, [tau])
    np.testing.assert_array_equal(np.where(merged == 0, np.float32(0), tau), unscaled)


@pytest.mark.parametrize("method", PRESENT)
def test_the_expectation_is_the_dense_merge(method: str) -> None:
    """Rescaled and averaged over seeds, every element comes near what nothing dropped would give, by its rate.

    An element that is kept takes part in the norm that it is divided by, which makes the expectation smaller by its
    part of the norm, and no more.
    """
    base, (tau, _) = np.full(SHAPE, 0.5, np.float32), taus()
    each = [{**parameters(method)[0], "weight": 0.5}]
    options = {"rescale": True, "normalize": False}
    runs = []
    for seed in range(SEEDS):
        problem = describe(method, base, [base + tau], options, each, seed=seed)
        runs.append(run(problem, method, base, [base + tau]) - base)
    values = np.array(runs, np.float64)
    probability = probabilities(method)[0]
    magnitudes = np.abs(tau).astype(np.float64)
    # Of the norm only a part is expected to be kept, larger where large elements are likelier to be (della).
    factor = np.sum(magnitudes) / np.sum(probability * magnitudes)
    expected = 0.5 * tau * probability * factor
    error = np.std(values, axis=0) / sqrt(SEEDS)
    bias = 2 * np.abs(expected) * factor * np.max(magnitudes) / np.sum(magnitudes)
    assert np.all(np.abs(np.mean(values, axis=0) - expected) < LIMIT * error + bias)
    assert np.sum(expected) == pytest.approx(np.sum(np.mean(values, axis=0)), rel=1e-5)


@pytest.mark.parametrize("method", PRESENT)
@settings(derandomize=True, deadline=None, max_examples=examples(25))
@given(data=st.data())
def test_masks_do_not_depend_on_chunks(method: str, data: st.DataObject) -> None:
    """However the tensor is cut, down to single elements, masks are the same."""
    length, seed = taus()[0].size, data.draw(st.integers(0, 2**63 - 1))
    cuts = data.draw(st.lists(st.integers(0, length), max_size=6) | st.just(list(range(length if JITTED else 25))))
    each = parameters(method)
    whole = both_masks(method, taus(), each, seed=seed)
    np.testing.assert_array_equal(whole, both_masks(method, taus(), each, cuts, seed=seed))


@pytest.mark.parametrize("method", PRESENT)
def test_masks_depend_on_seed_name_and_model_alone(method: str) -> None:
    """Another seed, tensor or model draws anew; the same draw again, whatever else is merged."""
    (tau, _), each = taus(), [{**parameters(method)[0], "weight": 1.0}] * 2
    first, second = both_masks(method, (tau, tau), each, seed=1)
    others = [
        second,
        both_masks(method, (tau, tau), each, seed=2)[0],
        both_masks(method, (tau, tau), each, seed=1, name="layer.other")[0],
    ]
    expected = np.array(probabilities(method)[0])
    unequal = 2 * np.sum(expected * (1 - expected))
    for other in others:
        assert np.sum(first != other) > unequal / 2
    again, _ = both_masks(method, (tau, taus()[1]), each, seed=1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, found_masks(method, [tau], each[:1], seed=1)[0])


@pytest.mark.parametrize("method", PRESENT)
@pytest.mark.parametrize(("density", "kept"), [(0.0, False), (1.0, True)])
def test_the_ends_are_not_random(method: str, density: float, kept: bool) -> None:
    """Density 0 keeps nothing and density 1 everything, for every seed."""
    for seed in range(5):
        found = both_masks(method, taus(), [{"density": density}] * 2, seed=seed)
        np.testing.assert_array_equal(np.full((2, *SHAPE), kept), found)


@pytest.mark.parametrize("method", DELLA)
def test_della_keeps_the_largest_more_often(method: str) -> None:
    """Over all rows and seeds, the upper half of a row is kept more often than the lower, by epsilon."""
    mask = masks(method)
    for model, tau in enumerate(taus()):
        upper = np.argsort(np.argsort(tau, axis=1), axis=1) > SHAPE[1] // 2
        lower = np.argsort(np.argsort(tau, axis=1), axis=1) < SHAPE[1] // 2
        above, below = mask[:, model][:, upper], mask[:, model][:, lower]
        difference = np.mean(above) - np.mean(below)
        expected = EPSILON * 2 * (SHAPE[1] // 2 + 1) / (SHAPE[1] - 1)
        deviation = np.sqrt(0.25 / above.size + 0.25 / below.size)  # at most, of the difference of two rates
        assert expected == pytest.approx(difference, abs=5 * deviation)
