"""Boxes cut any run of a flattened array into as few boxes as possible."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dovetail.io.files.boxes import boxes

SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@given(shape=SHAPES, data=st.data())
def test_boxes_are_the_run(shape: tuple[int, ...], data: st.DataObject) -> None:
    """The elements of the boxes, one after another, are those of the run, in at most 2n - 1 boxes."""
    array = np.arange(int(np.prod(shape, dtype=int))).reshape(shape)
    start = data.draw(st.integers(0, array.size))
    stop = data.draw(st.integers(start, array.size))
    found = list(boxes(shape, start, stop))
    assert len(found) <= max(1, 2 * len(shape) - 1)
    position = 0
    for box in found:
        assert position == box.offset
        part = array[tuple(slice(low, high) for low, high in zip(box.lows, box.highs, strict=True))]
        assert list(range(start + position, start + position + box.length)) == part.reshape(-1).tolist()
        position += box.length
    assert stop - start == position
