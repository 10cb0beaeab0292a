"""Views of a source's elements at regular distances."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dovetail.io.sources.views import ViewedSource, viewed
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.sources.test_rows import STORED, recorded, store
from tests.io.stored import random_bytes, touch

MOST = (512, 260)
"""Shape of the largest matrix: small chunks are decoded again and again. A copy is still more than the slack."""


class TestTransposed(SourceTests):
    """One matrix of two, transposed: every range needs elements of every stored row."""

    kinds = STORED

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        rows, columns = min(shape, MOST)
        values = random_bytes((2 * columns, rows), "<u2")
        source = viewed(store(folder, "stored", kind, values), rows * columns, (rows, columns), (1, rows))
        expected = np.ascontiguousarray(values[columns:].T).tobytes()
        yield Stored(source, expected, lambda: touch(folder))


class TestEveryOther(SourceTests):
    """Every other column of a matrix, transposed."""

    kinds = ("aligned", "chunks")

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        rows, columns = min(shape, MOST)
        values = random_bytes((columns, 2 * rows), "<u2")
        source = viewed(store(folder, "stored", kind, values), 1, (rows, columns), (2, 2 * rows))
        yield Stored(source, np.ascontiguousarray(values[:, 1::2].T).tobytes(), lambda: touch(folder))


@given(st.data(), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_any_strides(data: st.DataObject, shape: list[int]) -> None:
    """Elements are those that NumPy takes, and what was made resident is let go of."""
    strides = data.draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=len(shape)))
    first = data.draw(st.integers(0, 5))
    whole = recorded(first + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)))
    source = ViewedSource(whole, first, tuple(shape), tuple(strides))
    expected = np.lib.stride_tricks.as_strided(whole.values[first:], shape, [2 * stride for stride in strides])
    start = data.draw(st.integers(0, source.length))
    stop = data.draw(st.integers(start, source.length))
    assert expected.reshape(-1)[start:stop].tobytes() == source.read(start, stop).tobytes()
    calls = {name: [call[1:] for call in whole.calls if call[0] == name] for name in ("populate", "release")}
    assert calls["populate"] == calls["release"]
