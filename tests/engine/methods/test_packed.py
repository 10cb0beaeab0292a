"""Packed numbers are all there, in order, and take no more memory than is said."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dovetail.engine.methods.packed import NOTHING, pack, packed_bytes
from tests.engine.kernels.cases import examples

NUMBERS = st.one_of(
    st.lists(st.integers(0, 0x7FFFFFFF), max_size=30),
    st.lists(st.integers(0x3F000000, 0x3F000400), max_size=300),
    st.lists(st.integers(0x00FFFFF0, 0x01010010), max_size=300),
)
"""Far apart, close together, and across edges of the higher bits."""


@settings(derandomize=True, deadline=None, max_examples=examples(200))
@given(numbers=NUMBERS, others=st.lists(st.integers(0, 0x80000000), max_size=5))
@example(numbers=[7] * 1000, others=[7, 8])
@example(numbers=[0, 255, 256, 0x7FFFFFFF], others=[257])
def test_numbers_below_another_are_counted(numbers: list[int], others: list[int]) -> None:
    """Of every number, of its neighbours and of any other, just as many are below as in the list."""
    numbers.sort()
    packed = pack(np.array(numbers, np.uint32))
    near = (number + step for number in numbers for step in (-1, 0, 1) if number + step >= 0)
    for number in {*near, *others}:
        assert bisect_left(numbers, number) == packed.below(number)
    assert len(numbers) == packed.size
    if numbers:
        assert packed_bytes(len(numbers), numbers[-1] - numbers[0]) == packed.nbytes <= 4 * len(numbers) + 8


def test_close_numbers_take_little() -> None:
    """As many as a large tensor's chunk has inside its bracket take a third of the memory of plain ones."""
    numbers = np.sort(np.random.default_rng(0).integers(0x3A000000, 0x3A040000, 10_000).astype(np.uint32))
    packed = pack(numbers)
    assert packed.nbytes < numbers.nbytes * 0.36
    assert 0 == NOTHING.size == NOTHING.below(5)
