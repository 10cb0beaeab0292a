"""Formulas for one element of each source at a time."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.pointwise import add_changed, count_changed, mark_changed, near_swap, variance
from tests.engine.kernels.cases import LONGEST, examples, make_values

Floats = NDArray[np.float32]
ONE, ZERO = np.float32(1), np.float32(0)


def draw_taus(draw: st.DrawFn, least: int = 1) -> Floats:
    """Draw task vectors, one a line."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(least, 5)), draw(st.integers(0, LONGEST)))
    return make_values(random, shape, None, draw(st.sampled_from(["ties", "plain"]))).astype(np.float32)


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(data=st.data(), t=st.sampled_from([0.0, 1e-6, 0.1, 3.0, -0.5]))
def test_near_values_are_swapped(data: st.DataObject, t: float) -> None:
    """The weight of the other model is t over the distance, between 0 and 1."""
    base, other = draw_taus(data.draw, 2)[:2]
    out = np.empty_like(base)
    near_swap(base, other, np.float32(t), np.float32(1e-6), out)
    for a, b, found in zip(base, other, out, strict=True):
        weight = min(max(np.float32(t) / max(abs(a - b), np.float32(1e-6)), ZERO), ONE)
        assert weight * b + (ONE - weight) * a == found


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(data=st.data(), epsilon=st.sampled_from([0.0, 1e-5, 0.125, 0.3]))
def test_unique_and_shared_changes(data: st.DataObject, epsilon: float) -> None:
    """A change that one model makes is scaled, those that several make are divided by their number."""
    taus, limit, factor = draw_taus(data.draw), np.float32(epsilon), np.float32(1.1)
    counts, found = np.full(taus.shape[1], 77, np.uint16), np.ones((len(taus), 2), np.int64)
    count_changed(taus, limit, counts, found)
    changed = np.abs(taus) > limit
    sharers = changed.sum(axis=0)
    np.testing.assert_array_equal(sharers, counts)
    np.testing.assert_array_equal(1 + (changed & (sharers > 1)).sum(axis=1), found[:, 0])
    np.testing.assert_array_equal(1 + (changed & (sharers == 1)).sum(axis=1), found[:, 1])
    total, mask = np.zeros(taus.shape[1], np.float32), np.empty(taus.shape[1], np.uint8)
    expected = total.copy()
    for tau, marks in zip(taus, changed, strict=True):
        mark_changed(tau, limit, mask)
        np.testing.assert_array_equal(marks, mask == 1)
        add_changed(tau, mask, factor, counts, total)
        value = np.where(sharers == 1, tau * factor, tau / np.maximum(sharers, 1).astype(np.float32))
        expected = expected + np.where(marks, value, ZERO)
    np.testing.assert_array_equal(expected, total)


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(data=st.data())
def test_variances_are_rounded_once(data: st.DataObject) -> None:
    """They are the exact population variances to within one unit in the last place."""
    taus = draw_taus(data.draw)
    out = np.empty(taus.shape[1], np.float32)
    variance(taus, out)
    for column, found in zip(taus.T, out, strict=True):
        exact = [Fraction(float(value)) for value in column]
        mean = sum(exact) / len(exact)
        expected = float(sum((value - mean) ** 2 for value in exact) / len(exact))
        assert abs(expected - float(found)) <= float(np.spacing(np.float32(expected))) + 1e-16 * float(
            max(abs(column)) ** 2
        )
