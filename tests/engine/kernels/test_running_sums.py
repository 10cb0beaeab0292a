"""Sums of a task vector and of its kept part, tile by tile: the bits of the plain sums of the whole run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.kernels.running_sums import LANES, ROW, add_magnitudes, add_squares
from dovetail.engine.kernels.sums import sum_magnitudes, sum_squares
from tests.engine.kernels.cases import examples


@settings(derandomize=True, deadline=None, max_examples=examples(40))
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
    values = (random.standard_normal(sum(lengths)) * 10.0 ** random.integers(-9, 9)).astype(np.float32)
    if special and values.size:
        values[random.integers(values.size)] = random.choice([np.nan, np.inf, -np.inf])
    mask = random.integers(0, 2, values.size).astype(np.uint8)
    kept = np.where(mask != 0, values, np.float32(0))
    for add, plain in ((add_magnitudes, sum_magnitudes), (add_squares, sum_squares)):
        lanes, start, found = np.zeros((2, LANES)), 0, (0.0, 0.0)
        for place, length in enumerate(lengths):
            assert found == (0.0, 0.0)
            part = slice(start, start + length)
            found = add(values[part], mask[part], lanes, place == len(lengths) - 1)
            start += length
        np.testing.assert_array_equal([plain(values), plain(kept)], found)
        assert not lanes.any()


@pytest.mark.parametrize("add", [add_magnitudes, add_squares])
def test_what_is_not_kept_counts_for_nothing(add: object) -> None:
    """NaN where nothing is kept leaves the sum of the kept part alone."""
    values, mask = np.array([1.0, np.nan, -2.0], np.float32), np.array([1, 0, 1], np.uint8)
    whole, kept = add(values, mask, np.zeros((2, LANES)), True)  # type: ignore[operator]
    assert np.isnan(whole)
    assert {add_magnitudes: 3.0, add_squares: 5.0}[add] == kept  # type: ignore[index]
