"""Tensors that are cut to their leading elements, or filled from another."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.io.sources.rows import FilledElements, LeadingElements
from tests.io.held import HeldSource


@dataclass(frozen=True, eq=False)
class Recorded(HeldSource):
    """Elements in memory, of two bytes each; remembers the hints that it was given."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def data(self) -> NDArray[np.uint8]:
        return self.values.view(np.uint8)

    def prefetch(self, start: int, stop: int) -> None:
        self.calls.append(("prefetch", start, stop))

    def populate(self, start: int, stop: int) -> bool:
        self.calls.append(("populate", start, stop))
        return True

    def release(self, start: int, stop: int) -> None:
        self.calls.append(("release", start, stop))


def recorded(length: int, first: int = 0) -> Recorded:
    """Make elements that are numbered."""
    return Recorded(np.arange(first, first + length, dtype=np.uint16))


@given(st.data(), st.integers(1, 40), st.integers(0, 40))
def test_filled(data: st.DataObject, length: int, more: int) -> None:
    """Elements are the first source's where it has any, and the second's after them; hints go to both."""
    short, long = recorded(length, 1000), recorded(length + more)
    source = FilledElements(short, long)
    expected = np.concatenate((short.data, long.data[short.data.size :]))
    start = data.draw(st.integers(0, source.length))
    stop = data.draw(st.integers(start, source.length))
    found = source.read(start, stop)
    assert (length + more, 2) == (source.length, source.itemsize)
    assert expected[2 * start : 2 * stop].tobytes() == found.tobytes()
    assert source.populate(start, stop)
    source.prefetch(start, stop)
    source.release(start, stop)
    for name in ("prefetch", "populate", "release"):
        ranges = [call[1:] for call in (*short.calls, *long.calls) if call[0] == name]
        assert list(range(start, stop)) == [i for first, last in ranges for i in range(first, last)]


@given(st.data(), st.integers(1, 40), st.integers(0, 40))
def test_leading(data: st.DataObject, length: int, more: int) -> None:
    """Elements are the source's, as many as were asked for."""
    whole = recorded(length + more)
    source = LeadingElements(whole, length)
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.integers(start, length))
    assert (length, 2, False) == (source.length, source.itemsize, source.copies)
    assert whole.data[2 * start : 2 * stop].tobytes() == source.read(start, stop).tobytes()
    assert source.populate(start, stop)
    source.prefetch(start, stop)
    source.release(start, stop)
    assert [("populate", start, stop), ("prefetch", start, stop), ("release", start, stop)] == whole.calls


def test_sources_that_do_not_fit() -> None:
    """The second source must be as long and of the same element size."""
    with pytest.raises(ValueError, match="at least as long"):
        FilledElements(recorded(3), recorded(2))
    with pytest.raises(ValueError, match="elements of the same size"):
        FilledElements(recorded(3), Recorded(np.zeros(4, np.uint32)))


def test_pickle() -> None:
    """Both cross processes, and what is put together cannot be written to."""
    source = pickle.loads(pickle.dumps(FilledElements(LeadingElements(recorded(9), 3), recorded(5))))
    assert not source.read(0, 5).flags.writeable
    assert [0, 1, 2, 3, 4] == list(source.read(0, 5).view(np.uint16))
