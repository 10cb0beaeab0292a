"""Decoding tiles of several sources at once."""

from __future__ import annotations

import numpy as np

from dovetail.engine.kernels.convert import BF16, F32
from dovetail.engine.kernels.reading import STEP, count_stored, read_tile


def test_tiles_are_decoded_up_to_the_last() -> None:
    """Every source is decoded by its own dtype, also where nothing follows that could be fetched ahead."""
    values = np.arange(STEP + 10, dtype=np.float32) % 128
    short = (values.view(np.uint32) >> 16).astype(np.uint16)
    sources, codes = (values.view(np.uint8), short.view(np.uint8)), np.array([F32, BF16])
    for start, stop in ((0, STEP), (STEP, STEP + 10), (STEP + 3, STEP + 4)):
        lines = np.full((2, STEP), 9, np.float32)
        read_tile(sources, codes, start, stop, len(values), lines)
        np.testing.assert_array_equal(np.stack([values[start:stop]] * 2), lines[:, : stop - start])


def test_what_is_not_finite_is_counted_in_a_range() -> None:
    """NaN and infinity are counted source by source, in as many steps as the range has, and nowhere else."""
    first, second = np.zeros((2, 2 * STEP + 5), np.float32)
    first[[1, 2, 2 * STEP]], second[[0, 2 * STEP + 4]] = np.nan, -np.inf
    nonfinite = np.array([10, 20])
    count_stored((first.view(np.uint8), second.view(np.uint8)), np.array([F32, F32]), 2, 2 * STEP + 5, nonfinite)
    assert [12, 21] == nonfinite.tolist()
