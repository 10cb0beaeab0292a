"""Marks of one bit: of strong changes, and runs of marks that are moved."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.kernels.marks import mark_above, put_bits, take_bits
from dovetail.engine.kernels.sums import ROW
from tests.engine.kernels.cases import LONGEST, examples, make_values


@settings(derandomize=True, deadline=None, max_examples=examples(200))
@given(data=st.data(), style=st.sampled_from(["ties", "plain", "special"]), seed=st.integers(0, 2**32 - 1))
def test_marks_are_those_of_sorting(data: st.DataObject, style: str, seed: int) -> None:
    """Above the threshold all are marked, at it the first ones of the tensor, zeros never; nothing beyond the tile."""
    random, count = np.random.default_rng(seed), data.draw(st.integers(0, LONGEST))
    room = -(-count // ROW) * ROW
    with np.errstate(all="ignore"):
        base, values = make_values(random, (2, room), None, style).astype(np.float32)
        found = ((values - base).view(np.uint32) & 0x7FFFFFFF)[:count].tolist()
        threshold = data.draw(st.sampled_from([*found, 0, 0x7FFFFFFF]))
        ties = data.draw(st.integers(0, 5) | st.integers(0, 2 * LONGEST))
        before = data.draw(st.integers(0, 3))
        marks = np.full(room // 8 + 1, 255, np.uint8)
        seen = mark_above(base, values, count, (threshold, ties), before, marks)
    equal = [i for i, each in enumerate(found) if each == threshold and each]
    expected = [int(each > threshold) for each in found] + [0] * (room - count)
    for i in equal[: max(0, ties - before)]:
        expected[i] = 1
    assert expected + [1] * 8 == np.unpackbits(marks, bitorder="little").tolist()
    assert before + len(equal) == seen


@given(data=st.data(), first=st.integers(0, 20), count=st.integers(0, 90))
def test_runs_are_moved_between_any_places(data: st.DataObject, first: int, count: int) -> None:
    """What is put into a line leaves its neighbours alone, and what is taken out of it has only zeros after it."""
    marks = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    beyond = data.draw(st.integers(0, 9))
    line = np.packbits(np.array([1] * first + [0] * count + [1] * beyond, np.uint8), bitorder="little")
    put_bits(np.packbits(np.array(marks, np.uint8), bitorder="little"), count, first, line)
    expected = [1] * first + marks + [1] * beyond
    assert expected == np.unpackbits(line, bitorder="little", count=len(expected)).tolist()
    out = np.full(16, 255, np.uint8)
    take_bits(line, first, count, out)
    assert marks + [0] * (128 - count) == np.unpackbits(out, bitorder="little").tolist()
