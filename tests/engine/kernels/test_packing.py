"""Packing and unpacking give back what was kept, in whatever runs it is done."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from dovetail.engine.kernels.expansion import SLACK, _add_by_places, _spread_by_places, add_words, spread_words
from dovetail.engine.kernels.packing import pack, pack_bits
from dovetail.engine.kernels.stored import add_kept, count_words, unmark, unpack


@given(data=st.data(), size=st.sampled_from([1, 2, 4, 8]), count=st.integers(0, 200))
def test_what_is_packed_is_unpacked(data: st.DataObject, size: int, count: int) -> None:
    """Marks are those of numpy's `packbits`, values those at the marks, in any runs."""
    marks = np.array(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), np.uint8)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, count), max_size=3))), count]
    stored = np.random.default_rng(0).integers(0, 256, count * size).astype(np.uint8)
    bits, values = np.zeros(-(-count // 8), np.uint8), np.zeros(count * size, np.uint8)
    kept = 0
    for start, stop in pairwise(cuts):
        kept = pack(marks[start:stop], stored[start * size : stop * size], start, bits, values, kept)
    assert int(marks.sum()) == kept
    assert np.packbits(marks, bitorder="little").tolist() == bits.tolist()
    assert stored.reshape(count, size)[marks == 1].ravel().tolist() == values[: kept * size].tolist()
    words = np.zeros(-(-count // 64) * 8 + 8, np.uint8)
    words[: bits.size] = bits
    for a, b in pairwise(cuts):
        if b > a:
            assert int(marks[a:b].sum()) == count_words(words.view(np.uint64), words.view(np.uint64), a, b)


@given(data=st.data(), first=st.integers(0, 20), count=st.integers(0, 90))
def test_bits_of_a_run_are_set(data: st.DataObject, first: int, count: int) -> None:
    """Wherever a run begins in a line of bits, it is numpy's, and its neighbours stay."""
    marks = np.array(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), np.uint8)
    around = np.concatenate([np.ones(first, np.uint8), np.zeros(count, np.uint8), np.ones(9, np.uint8)])
    bits = np.packbits(around, bitorder="little")
    pack_bits(marks, first, bits)
    found = np.unpackbits(bits, bitorder="little")[: first + count + 9].tolist()
    assert [1] * first + marks.tolist() + [1] * 9 == found


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("first", "count"), [(0, 1), (0, 64), (1, 63), (63, 1), (63, 137), (64, 200), (100, 20), (5, 700)]
)
def test_task_vectors_are_zero_where_nothing_is_kept(first: int, count: int, density: float) -> None:
    """From any element on, the kept values minus the base model's stand at the marks, and zeros elsewhere."""
    random = np.random.default_rng(first)
    marks = (random.random(first + count) < density).astype(np.uint8)
    base = random.standard_normal(count).astype(np.float32)
    tuned = random.standard_normal(count).astype(np.float32)
    here = marks[first:] == 1
    mask, tau = np.full(count, 9, np.uint8), np.full(count, 9, np.float32)
    words = _words(marks)
    unpack(words, first, first + count, _with_slack(tuned[here]), base, tau)
    unmark(words, first, first + count, mask)
    assert marks[first:].tolist() == mask.tolist()
    assert np.where(here, tuned - base, np.float32(0)).tobytes() == tau.tobytes()


@pytest.mark.parametrize("spread", [spread_words, _spread_by_places], ids=["by instructions", "by places"])
def test_values_are_spread_alike_with_and_without_instructions(spread: Any) -> None:
    """Words from the middle of the marks, values from the middle, a place within the arrays: all as numpy has it."""
    random = np.random.default_rng(1)
    marks = (random.random(64 * 7) < 0.4).astype(np.uint8)
    inside = marks[128:384] == 1
    values, base = (random.standard_normal(size).astype(np.float32) for size in (5 + int(inside.sum()), 300))
    tau, expected = np.full(300, 9, np.float32), np.full(300, 9, np.float32)
    expected[10:266] = 0
    expected[10:266][inside] = values[5:] - base[10:266][inside]

    @njit
    def call(words: Any, values: Any, base: Any, tau: Any) -> Any:
        return spread(words, 2, 4, values, 5, base, tau, 10)

    assert values.size == call(_words(marks), _with_slack(values), base, tau)
    assert expected.tobytes() == tau.tobytes()


@pytest.mark.parametrize("add", [add_words, _add_by_places], ids=["by instructions", "by places"])
def test_contributions_are_added_alike_with_and_without_instructions(add: Any) -> None:
    """The sum changes at the marks alone, step by step as numpy has it; squares go to 16 partial sums."""
    random = np.random.default_rng(2)
    marks = (random.random(64 * 7) < 0.4).astype(np.uint8)
    inside = marks[128:384] == 1
    values, base, before = (random.standard_normal(size).astype(np.float32) for size in (int(inside.sum()), 300, 300))
    scale, weight, after = np.float32(1.3), np.float32(-0.7), before.copy()
    tau = np.zeros(256, np.float32)
    tau[inside] = values - base[10:266][inside]
    expected = before.copy()
    expected[10:266][inside] += (weight * (scale * tau))[inside]
    partial = np.zeros(16)
    for row in tau.reshape(16, 16).astype(np.float64) ** 2:
        partial += row
    while partial.size > 1:
        partial = partial[: partial.size // 2] + partial[partial.size // 2 :]

    @njit
    def call(words: Any, values: Any, base: Any, total: Any) -> Any:
        return add(words, 2, 4, values, 0, base, total, 10, scale, weight)

    assert (values.size, float(partial[0])) == call(_words(marks), _with_slack(values), base, after)
    assert expected.tobytes() == after.tobytes()


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 64), (1, 63), (63, 1), (63, 137), (100, 20), (5, 700)])
def test_contributions_of_any_run_are_added(first: int, count: int) -> None:
    """Runs may begin and end within words of marks."""
    random = np.random.default_rng(first)
    marks = (random.random(first + count) < 0.3).astype(np.uint8)
    base, tuned, total = (random.standard_normal(count).astype(np.float32) for _ in range(3))
    here, weight = marks[first:] == 1, np.float32(0.4)
    expected = np.where(here, total + weight * (tuned - base), total)
    squares = add_kept(
        _words(marks), first, first + count, _with_slack(tuned[here]), base, np.float32(1), weight, total
    )
    assert expected.tobytes() == total.tobytes()
    assert pytest.approx(float(((tuned - base)[here].astype(np.float64) ** 2).sum())) == squares


def _with_slack(values: Any) -> Any:
    """Let values be followed by what no kernel may use."""
    return np.concatenate([values, np.full(SLACK, np.nan, np.float32)])


def _words(marks: Any) -> Any:
    """Pack marks into words of 64 bits, by numpy."""
    padded = np.zeros(-(-marks.size // 64) * 64, np.uint8)
    padded[: marks.size] = marks
    return np.packbits(padded, bitorder="little").view(np.uint64)
