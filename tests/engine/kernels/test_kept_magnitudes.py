"""Sums of a task vector and of its kept part, tile by tile: the bits of the plain sums of the whole run."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.kernels.kept_magnitudes import add_magnitudes
from dovetail.engine.kernels.sums import LANES, ROW, sum_magnitudes
from tests.engine.kernels.cases import examples


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(
    seed=st.integers(0, 2**32 - 1),
    tiles=st.lists(st.integers(0, 3), max_size=4),
    last=st.integers(0, 2 * ROW),
    special=st.booleans(),
)
def test_tiles_give_the_bits_of_one_run(seed: int, tiles: list[int], last: int, special: bool) -> None:
    """However a run is cut at whole rows, both sums are those of one call, and the lanes are cleared for the next."""
    random = np.random.default_rng(seed)
    lengths = [tile * ROW for tile in tiles] + [last]
    size = sum(lengths)
    base, values = (random.standard_normal((2, size)) * 10.0 ** random.integers(-9, 9)).astype(np.float32)
    if special and size:
        values[random.integers(size)] = random.choice([np.nan, np.inf, -np.inf])
    mask = random.integers(0, 2, size).astype(np.uint8)
    bits, tau = np.packbits(mask, bitorder="little"), values - base
    lanes, start, found = np.zeros((2, LANES)), 0, (0.0, 0.0)
    for place, length in enumerate(lengths):
        assert found == (0.0, 0.0)
        part = slice(start, start + length)
        is_last = place == len(lengths) - 1
        found = add_magnitudes(base[part], values[part], bits[start // 8 :], length, lanes, is_last)
        start += length
    np.testing.assert_array_equal([sum_magnitudes(tau), sum_magnitudes(np.where(mask != 0, tau, np.float32(0)))], found)
    assert not lanes.any()


def test_what_is_not_kept_counts_for_nothing() -> None:
    """NaN where nothing is kept leaves the sum of the kept part alone."""
    values, marks = np.array([1.0, np.nan, -2.0], np.float32), np.array([0b101], np.uint8)
    whole, kept = add_magnitudes(np.zeros(3, np.float32), values, marks, 3, np.zeros((2, LANES)), True)
    assert np.isnan(whole)
    assert 3.0 == kept
