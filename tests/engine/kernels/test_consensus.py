"""Merging kept contributions: sums, sign elections, and where the base stands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.consensus import add_change, add_kept, add_signed, elect, keep_masked
from tests import naive
from tests.engine.kernels.cases import examples, make_values
from tests.engine.kernels.drive import bits


def by_ties(contributions: list[list[float]]) -> NDArray[np.float32]:
    """Elect the change of each element from the contributions of the models that keep it."""
    count = max(len(each) for each in contributions)
    length = len(contributions)
    sums, counts = np.zeros((3, length), np.float32), np.zeros((3, length), np.uint16)
    for model in range(count):
        tau = np.array([each[model] if model < len(each) else 5 for each in contributions], np.float32)
        mask = np.array([model < len(each) for each in contributions], np.uint8)
        add_signed(tau, mask, np.float32(1), sums, counts)
    delta = np.full(length, 7, np.float32)
    elect(sums, counts, delta)
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
    """Sums and elections, element by element, are those of the definition, in order and in float32."""
    random = np.random.default_rng(seed)
    length = 17
    weights = random.choice(np.array([1.0, -0.7, 0.0, 1 / 3], np.float32), count)
    masks = (random.random((count, length)) < 0.6).astype(np.uint8)
    summed = np.zeros(length, np.float32)
    sums, counts = np.zeros((3, length), np.float32), np.zeros((3, length), np.uint16)
    elected = np.empty(length, np.float32)
    with np.errstate(all="ignore"):
        taus = [make_values(random, (length,), None, style).astype(np.float32) for _ in range(count)]
        for tau, mask, weight in zip(taus, masks, weights, strict=True):
            add_kept(tau, mask, weight, summed)
            add_signed(tau, mask, weight, sums, counts)
        elect(sums, counts, elected)
        for kind, actual in (("sum", summed), ("ties", elected)):
            kept = [[np.float32(weights[j] * taus[j][i]) for j in range(count) if masks[j, i]] for i in range(length)]
            expected = np.array([naive.merge_kept(each, kind) for each in kept], np.float32)
            np.testing.assert_array_equal(bits(expected + np.float32(0)), bits(actual + np.float32(0)))


def test_the_base_stands_where_nothing_changes() -> None:
    """A change of zero, of either sign, leaves every bit of the base; else the sum is rounded once."""
    base = np.array([-0.0, -0.0, 1.0, 1.0, np.nan], np.float32)
    delta = np.array([0.0, -0.0, 1e-9, 1.0, 0.0], np.float32)
    add_change(delta, base)
    np.testing.assert_array_equal(bits(np.array([-0.0, -0.0, 1.0, 2.0, np.nan], np.float32)), bits(delta))


def test_the_kept_part() -> None:
    """Outside its mask a task vector counts as zero, whatever it holds."""
    kept = np.full(3, 7, np.float32)
    keep_masked(np.array([1.5, np.nan, -2], np.float32), np.array([1, 0, 1], np.uint8), kept)
    assert [1.5, 0.0, -2.0] == kept.tolist()
