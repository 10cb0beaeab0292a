"""Counting and marking a tensor's strongest elements where every model chooses alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.magnitude import DIGIT_BINS, DIGIT_SHIFTS
from dovetail.engine.kernels.strongest import count_magnitudes, mark_strongest
from tests.engine.kernels.cases import LONGEST, examples, make_values


def draw_values(draw: st.DrawFn) -> NDArray[np.float32]:
    """Draw values full of ties, zeros, NaN and infinity."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    style = draw(st.sampled_from(["ties", "plain", "special"]))
    with np.errstate(all="ignore"):
        return make_values(random, (draw(st.integers(0, LONGEST)),), None, style).astype(np.float32)


def magnitudes(values: NDArray[np.float32]) -> list[int]:
    """Bits of the absolute values."""
    return [int(bits) & 0x7FFFFFFF for bits in values.view(np.uint32)]


@settings(derandomize=True, deadline=None, max_examples=examples(100))
@given(data=st.data())
def test_histograms_count_every_digit(data: st.DataObject) -> None:
    """For each digit, the values with the higher digits of the prefix are counted, but zeros never."""
    values = draw_values(data.draw)
    found = [each for each in magnitudes(values) if each]
    chosen = data.draw(st.sampled_from(found)) if found else 0
    for digit, (shift, bins) in enumerate(zip(DIGIT_SHIFTS, DIGIT_BINS, strict=True)):
        prefix = chosen >> shift >> (bins.bit_length() - 1) if digit else 0
        counts = np.full(bins, 5, np.int64)
        count_magnitudes(values, digit, prefix, counts)
        fitting = [each for each in found if digit == 0 or each >> DIGIT_SHIFTS[digit - 1] == prefix]
        expected = np.bincount([each >> shift & (bins - 1) for each in fitting], minlength=bins) + 5
        np.testing.assert_array_equal(expected, counts)


@settings(derandomize=True, deadline=None, max_examples=examples(150))
@given(data=st.data())
def test_marks_are_those_of_sorting(data: st.DataObject) -> None:
    """Above the threshold all are marked, at it the first ones of the tensor, in one go or in two."""
    values = draw_values(data.draw)
    found = magnitudes(values)
    threshold = data.draw(st.sampled_from([*found, 0, 0x7FFFFFFF]))
    ties = data.draw(st.integers(0, 5))
    before = data.draw(st.integers(0, 3))
    half = data.draw(st.integers(0, len(found)))
    mask, seen = np.full(len(found), 7, np.uint8), before
    for part in (slice(0, half), slice(half, None)):
        seen = mark_strongest(values[part], threshold, ties, seen, mask[part])
    equal = [i for i, each in enumerate(found) if each == threshold and each]
    expected = [int(each > threshold) for each in found]
    for i in equal[: max(0, ties - before)]:
        expected[i] = 1
    assert expected == mask.tolist()
    assert before + len(equal) == seen
