"""Tensors that are cut to their first elements, or filled up from another tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.io.source import Decoding, Source
from dovetail.io.sources.parts import ElementRun
from dovetail.io.sources.rows import FilledElements
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.held import HeldSource
from tests.io.stored import random_bytes, store_mapped, store_transposed, store_zarr, touch


@dataclass(frozen=True, eq=False)
class Recorded(HeldSource):
    """Elements of two bytes each, in memory; records the hints that it gets."""

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
    """Make a source of numbered elements."""
    return Recorded(np.arange(first, first + length, dtype=np.uint16))


@given(st.data(), st.integers(1, 40), st.integers(0, 40))
def test_filled(data: st.DataObject, length: int, more: int) -> None:
    """Elements are the first source's as far as it has them, then the second's, and both get the hints."""
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
    """Elements are the source's first ones, as many as were asked for."""
    whole = recorded(length + more)
    source = ElementRun(whole, 0, length)
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


def store(folder: Path, name: str, kind: str, values: NDArray[Any]) -> Source:
    """Store a matrix in one of the ways that a wrapper can meet."""
    if kind == "chunks":
        return store_zarr(folder / name, values, (max(1, values.shape[0] // 3), values.shape[1]))
    if kind == "transposed":
        return store_transposed(folder / name, values)
    return store_mapped(folder / name, values, 7 if kind == "unaligned" else 8)


STORED = ("aligned", "unaligned", "transposed", "chunks")


class TestFirstRows(SourceTests):
    """The first rows of a tensor that has more."""

    kinds = STORED

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        values = random_bytes((shape[0] + 5, shape[1]), "<u2")
        source = ElementRun(store(folder, "stored", kind, values), 0, shape[0] * shape[1])
        yield Stored(source, values[: shape[0]].tobytes(), lambda: touch(folder))


class TestFilledElements(SourceTests):
    """A third of the rows of one tensor, the rest from another."""

    kinds = (*STORED, "nested")

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        rows = shape[0] // 3
        first, rest = random_bytes((rows, shape[1]), "<u2", 1), random_bytes(shape, "<u2", 2)
        source: Source = store(folder, "first", kind, first)
        if kind == "nested":  # rows in front of rows that are themselves cut from more
            source = ElementRun(store(folder, "more", "chunks", np.tile(first, (2, 1))), 0, first.size)
        source = FilledElements(source, store(folder, "rest", kind, rest))
        yield Stored(source, first.tobytes() + rest[rows:].tobytes(), lambda: touch(folder))


def test_scratch_is_handed_on() -> None:
    """A wrapper has the scratch memory of the source that it wraps, however often it is wrapped."""
    small = HeldSource(np.zeros(10, np.uint16), scratch_bytes=100)
    large = HeldSource(np.zeros(20, np.uint16), scratch_bytes=107_000_000)
    assert 107_000_000 == ElementRun(large, 0, 5).scratch_bytes
    assert 107_000_000 == FilledElements(small, large).scratch_bytes
    assert 100 == FilledElements(small, HeldSource(np.zeros(20, np.uint16))).scratch_bytes
    assert 107_000_000 == ElementRun(FilledElements(ElementRun(large, 0, 5), small), 0, 8).scratch_bytes


def test_decoding_is_handed_on() -> None:
    """A wrapper decodes what its sources decode, and None if none of them is stored in chunks."""
    plain = HeldSource(np.zeros(20, np.uint16))
    chunks = HeldSource(np.zeros(10, np.uint16), decoded=Decoding(30, 40))
    assert Decoding(30, 40) == ElementRun(chunks, 0, 5).decoding(0, 3)
    assert Decoding(30, 40) == FilledElements(chunks, plain).decoding(5, 15)
    assert Decoding(60, 80) == FilledElements(chunks, chunks).decoding(5, 10)
    assert FilledElements(plain, plain).decoding(0, 20) is None
