"""Sums of scaled task vectors, with and without the election of signs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.election import add_scaled, add_voting, add_weighted_votes, elect_signs, scale_change
from tests import naive
from tests.engine.kernels.cases import LONGEST, examples, make_values
from tests.engine.kernels.drive import bits

Floats = NDArray[np.float32]
ONE, NO_LEAST = np.float32(1), np.float32(-np.inf)


def draw_models(draw: st.DrawFn) -> tuple[list[Floats], list[NDArray[np.uint8]], Floats, Floats]:
    """Draw task vectors, masks, scales and weights."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, length = draw(st.integers(1, 4)), draw(st.integers(0, LONGEST))
    style = draw(st.sampled_from(["ties", "plain"]))
    taus = [make_values(random, (length,), None, style).astype(np.float32) for _ in range(count)]
    masks = [random.integers(0, 2, length).astype(np.uint8) for _ in range(count)]
    numbers = random.choice(np.array([1, 0.5, -0.25, 0, 1.7, 0.3], np.float32), (2, count))
    return taus, masks, numbers[0], numbers[1]


@settings(derandomize=True, deadline=None, max_examples=examples(100))
@given(data=st.data())
def test_sums_are_in_order(data: st.DataObject) -> None:
    """Each product and each sum is rounded by itself, and models are added in order."""
    taus, masks, scales, weights = draw_models(data.draw)
    total = np.zeros(len(taus[0]), np.float32)
    expected = total.copy()
    for tau, mask, scale, weight in zip(taus, masks, scales, weights, strict=True):
        add_scaled(tau, mask, scale, weight, total)
        expected = expected + np.where(mask == 1, weight * (scale * tau), np.float32(0))
    np.testing.assert_array_equal(expected, total)


@pytest.mark.parametrize("weighted_votes", [False, True])
@pytest.mark.parametrize("least", [-np.inf, 1e-6])
@settings(derandomize=True, deadline=None, max_examples=examples(80))
@given(data=st.data())
def test_only_the_elected_sign_counts(weighted_votes: bool, least: float, data: st.DataObject) -> None:
    """Only contributions with the sign of the sum count; a sum of zero elects plus, and zeros have no sign."""
    taus, masks, scales, weights = draw_models(data.draw)
    normalize = data.draw(st.booleans())
    length = len(taus[0])
    sums, change = np.zeros((5, length), np.float32), np.full(length, 9, np.float32)
    votes, contributions = [], []
    for tau, mask, scale, weight in zip(taus, masks, scales, weights, strict=True):
        if weighted_votes:
            add_weighted_votes(tau, mask, weight, sums)
            votes.append(np.where(mask == 1, tau, np.float32(0)))
            contributions.append(weight * votes[-1])
        else:
            add_voting(tau, mask, scale, weight, weight, sums)
            votes.append(np.where(mask == 1, weight * (scale * tau), np.float32(0)))
            contributions.append(votes[-1])
    elect_signs(sums, normalize, np.float32(least), change)
    for i in range(length):
        total, value, divisor = np.float32(0), np.float32(0), np.float32(0)
        for vote in votes:
            total = total + vote[i]
        for vote, contribution, weight in zip(votes, contributions, weights, strict=True):
            if (vote[i] > 0 and total >= 0) or (vote[i] < 0 and total < 0):
                value, divisor = value + contribution[i], divisor + weight
        divisor = max(divisor, np.float32(least))
        expected = value / (divisor if divisor != 0 else ONE) if normalize else value
        assert expected == change[i]


def by_ties(contributions: list[list[float]]) -> NDArray[np.float32]:
    """Elect the change of each element from the contributions of the models that keep it."""
    count = max(len(each) for each in contributions)
    length = len(contributions)
    sums = np.zeros((5, length), np.float32)
    for model in range(count):
        tau = np.array([each[model] if model < len(each) else 5 for each in contributions], np.float32)
        mask = np.array([model < len(each) for each in contributions], np.uint8)
        add_voting(tau, mask, ONE, ONE, ONE, sums)
    delta = np.full(length, 7, np.float32)
    elect_signs(sums, True, NO_LEAST, delta)
    return delta


@pytest.mark.parametrize(
    ("contributions", "change"),
    [
        ([3.0, 1.0, -1.0], 2.0),
        ([-3.0, 1.0, -1.0], -2.0),
        ([1.0, -1.0], 1.0),
        ([-1.0, 1.0, 0.0], 1.0),
        ([0.0, 0.0], 0.0),
        ([-4.0], -4.0),
        ([2.0, 0.0], 2.0),
        ([], 0.0),
        ([float("inf"), 1.0], float("inf")),
        ([float("nan"), 1.0], float("nan")),
        ([float("inf"), float("-inf")], float("nan")),
    ],
)
def test_elections(contributions: list[float], change: float) -> None:
    """The sign of the sum wins, 0 counts as +, zeros do not vote on the mean, and NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.float32(change), by_ties([contributions, [1.0]])[0])


@settings(derandomize=True, deadline=None, max_examples=examples(150))
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5), style=st.sampled_from(["ties", "plain", "special"]))
def test_both_kinds_equal_the_oracle(seed: int, count: int, style: str) -> None:
    """Sums and elections with shares of 1 are, element by element, those of the definition, in order and in float32."""
    random = np.random.default_rng(seed)
    length = 17
    weights = random.choice(np.array([1.0, -0.7, 0.0, 1 / 3], np.float32), count)
    masks = (random.random((count, length)) < 0.6).astype(np.uint8)
    summed = np.zeros(length, np.float32)
    sums = np.zeros((5, length), np.float32)
    elected = np.empty(length, np.float32)
    with np.errstate(all="ignore"):
        taus = [make_values(random, (length,), None, style).astype(np.float32) for _ in range(count)]
        for tau, mask, weight in zip(taus, masks, weights, strict=True):
            add_scaled(tau, mask, ONE, weight, summed)
            add_voting(tau, mask, ONE, weight, ONE, sums)
        elect_signs(sums, True, NO_LEAST, elected)
        for kind, actual in (("sum", summed), ("ties", elected)):
            kept = [[np.float32(weights[j] * taus[j][i]) for j in range(count) if masks[j, i]] for i in range(length)]
            expected = np.array([naive.merge_kept(each, kind) for each in kept], np.float32)
            np.testing.assert_array_equal(bits(expected + np.float32(0)), bits(actual + np.float32(0)))


def test_a_sum_that_is_no_number_stays_so() -> None:
    """A NaN in a contribution reaches the change, whether it is divided or not."""
    for normalize in (False, True):
        sums, change = np.zeros((5, 1), np.float32), np.zeros(1, np.float32)
        add_voting(np.array([np.nan], np.float32), np.ones(1, np.uint8), ONE, ONE, ONE, sums)
        elect_signs(sums, normalize, NO_LEAST, change)
        assert np.isnan(change[0])


def test_scaling_divides_first() -> None:
    """The change is divided first and then multiplied, and each result is rounded."""
    change = np.array([1.0, -7.0, 0.0], np.float32)
    expected = (change / np.float32(3)) * np.float32(0.7)
    scale_change(change, np.float32(3), np.float32(0.7))
    np.testing.assert_array_equal(expected, change)
