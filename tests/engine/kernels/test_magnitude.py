"""Tensor-wide selection from histograms of magnitude bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.general import FORBID, IGNORE, MINIMIZE
from dovetail.engine.kernels.magnitude import (
    ALL_LEVELS,
    DIGIT_BINS,
    DIGIT_SHIFTS,
    NO_THRESHOLD,
    claim_strongest,
    count_digits,
    find_place,
)
from tests.engine.kernels.cases import LONGEST, examples, make_values


def magnitudes(tau: NDArray[np.float32]) -> NDArray[np.int64]:
    """Magnitude bits."""
    return (tau.view(np.uint32) & np.uint32(0x7FFFFFFF)).astype(np.int64)


def draw_tau(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Draw a task vector and claims of 0 to 2 earlier models."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    style = draw(st.sampled_from(["ties", "plain", "special"]))
    length = draw(st.integers(0, LONGEST))
    with np.errstate(all="ignore"):
        tau = make_values(random, (length,), None, style).astype(np.float32)
    return tau, random.integers(0, 3, length).astype(np.uint16)


def candidates(tau: NDArray[np.float32], claims: NDArray[np.uint16], mode: int) -> list[tuple[int, int, int]]:
    """List (claims, -magnitude, index) of the candidates, best first."""
    levels = np.zeros(tau.size, int) if mode == IGNORE else claims.astype(int)
    found = zip(levels.tolist(), (-magnitudes(tau)).tolist(), range(tau.size), strict=True)
    return sorted(each for each in found if each[1] != 0 and (mode != FORBID or each[0] == 0))


def test_digits_cover_all_magnitude_bits() -> None:
    """The digits are adjacent and make up 31 bits."""
    assert (20, 10, 0) == DIGIT_SHIFTS
    assert 31 == sum(bins.bit_length() - 1 for bins in DIGIT_BINS)
    assert 20 == sum(bins.bit_length() - 1 for bins in DIGIT_BINS[1:])


@pytest.mark.parametrize("mode", [FORBID, MINIMIZE, IGNORE])
@settings(derandomize=True, deadline=None, max_examples=examples(100))
@given(data=st.data())
def test_three_digits_find_any_rank(mode: int, data: st.DataObject) -> None:
    """Following the digits leads to the magnitude of the candidate of a rank, and to its rank among its equals."""
    tau, claims = draw_tau(data.draw)
    ordered = candidates(tau, claims, mode)
    if not ordered:
        return
    rank = data.draw(st.integers(1, len(ordered)))
    rest, level, prefix = rank, 0, 0
    for digit, bins in enumerate(DIGIT_BINS):
        counts = np.zeros((3 if digit == 0 else 1, bins), np.int64)
        count_digits(tau, mode, claims, digit, level, prefix, counts)
        place = find_place(counts, rest)
        level = place[0] if digit == 0 else level
        prefix, rest = prefix * bins + place[1], place[2]
    wanted = ordered[rank - 1]
    equals = [each for each in ordered if each[:2] == wanted[:2]]
    assert (wanted[0], -wanted[1], equals.index(wanted) + 1) == (level, prefix, rest)


@pytest.mark.parametrize("mode", [FORBID, MINIMIZE, IGNORE])
@settings(derandomize=True, deadline=None, max_examples=examples(100))
@given(data=st.data())
def test_rules_keep_the_strongest(mode: int, data: st.DataObject) -> None:
    """The rule of a rank keeps just the candidates up to it, in one go or in two halves, and claims them."""
    tau, claims = draw_tau(data.draw)
    ordered = candidates(tau, claims, mode)
    rank = data.draw(st.integers(0, len(ordered)))
    rule = (0, NO_THRESHOLD, 0)
    if rank:
        level, negative, _ = ordered[rank - 1]
        ties = [each[:2] for each in ordered[:rank]].count((level, negative))
        rule = (level, -negative, ties)
    before, mask = claims.copy(), np.full(tau.size, 7, np.uint8)
    seen, half = 0, tau.size // 2
    for part in (slice(0, half), slice(half, None)):
        seen = claim_strongest(tau[part], mode, claims[part], rule, seen, mask[part])
    expected = np.zeros(tau.size, np.uint8)
    expected[[each[2] for each in ordered[:rank]]] = 1
    np.testing.assert_array_equal(expected, mask)
    np.testing.assert_array_equal(before + (0 if mode == IGNORE else expected), claims)


@pytest.mark.parametrize("mode", [FORBID, MINIMIZE, IGNORE])
def test_a_rule_can_keep_every_candidate(mode: int) -> None:
    """A level above all claims keeps whatever may be kept."""
    tau = np.array([1, -0.0, 2, np.nan], np.float32)
    claims = np.array([0, 0, 5, 0], np.uint16)
    mask = np.empty(4, np.uint8)
    claim_strongest(tau, mode, claims, (ALL_LEVELS, 0, 0), 0, mask)
    expected: list[Any] = [1, 0, 0 if mode == FORBID else 1, 1]
    assert expected == mask.tolist()


def test_ranks_run_up_through_levels_and_down_through_bins() -> None:
    """Fewer claims come first, then greater digits."""
    counts = np.array([[1, 0, 2], [0, 3, 0]], np.int64)
    places = [find_place(counts, rank) for rank in range(1, 7)]
    assert [(0, 2, 1), (0, 2, 2), (0, 0, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3)] == places
