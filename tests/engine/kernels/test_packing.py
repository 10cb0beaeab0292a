"""Packing and unpacking give back what was kept, in whatever runs it is done."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.kernels.packing import pack
from dovetail.engine.kernels.stored import count_words, unpack


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


@pytest.mark.parametrize("first", [0, 1, 63, 64, 100])
def test_task_vectors_are_zero_where_nothing_is_kept(first: int) -> None:
    """From any element on, the kept values minus the base model's stand at the marks, and zeros elsewhere."""
    random = np.random.default_rng(first)
    marks = (random.random(first + 137) < 0.3).astype(np.uint8)
    base = random.standard_normal(137).astype(np.float32)
    tuned = random.standard_normal(137).astype(np.float32)
    here = marks[first:] == 1
    mask, tau = np.full(137, 9, np.uint8), np.full(137, 9, np.float32)
    words = np.zeros(-(-marks.size // 64) * 64, np.uint8)
    words[: marks.size] = marks
    bits = np.packbits(words, bitorder="little").view(np.uint64)
    unpack(bits, first, first + 137, tuned[here], base, mask, tau)
    assert marks[first:].tolist() == mask.tolist()
    assert np.where(here, tuned - base, np.float32(0)).tobytes() == tau.tobytes()
