"""Gathered columns are those of numpy's indexing, in any range, and only one window is resident at a time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.io.source import Decoding
from dovetail.io.sources import columns as module
from dovetail.io.sources.columns import SelectedColumns
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.held import HeldSource
from tests.io.sources.test_gathered import Held
from tests.io.stored import store_mapped, store_zarr, touch


@given(st.data())
@settings(max_examples=100)
def test_any_range_is_what_indexing_gives(data: st.DataObject) -> None:
    """Any division into ranges, and windows of any size, give the bits that numpy's indexing gives."""
    rows, columns, length = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(1, 5)))
    chosen = sorted(data.draw(st.sets(st.integers(0, columns - 1), min_size=1)))
    kind = data.draw(st.sampled_from([np.uint8, np.uint16, np.float32, np.complex64]))
    values = np.arange(rows * columns * length).astype(kind).reshape(rows, columns, length)
    expected = values[:, chosen].reshape(-1)
    held = Held(values, copies=data.draw(st.booleans()))
    source = SelectedColumns(held, columns * length, length, np.array(chosen))
    assert expected.size == source.length
    cuts = sorted({0, source.length, *data.draw(st.lists(st.integers(0, source.length), max_size=5))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW_BYTES", values.itemsize * data.draw(st.integers(1, 40)))
        for start, stop in itertools.pairwise(cuts):
            source.prefetch(start, stop)
            assert expected[start:stop].tobytes() == source.read(start, stop).tobytes()
        most = max(1, module.WINDOW_BYTES // values.itemsize)
    assert all(high - low <= most for low, high in held.asked)
    assert not held.resident


def test_scratch_is_a_window_what_is_gathered_of_it_and_what_the_source_takes() -> None:
    """The scratch memory is the source's, two windows or three if the source copies, and a row's places."""
    values = np.zeros((40, 10), np.float32)
    plain = SelectedColumns(HeldSource(values, scratch_bytes=107), 10, 2, np.array([1, 4]))
    assert 107 + 2 * 1600 + 24 * 4 == plain.scratch_bytes
    copying = SelectedColumns(HeldSource(values, copies=True), 10, 2, np.array([1, 4]))
    assert 3 * 1600 + 24 * 4 == copying.scratch_bytes


def test_decoding_and_prefetching_are_those_of_the_rows() -> None:
    """What is decoded and prefetched lies between the first and the last element of the range."""
    chunks = HeldSource(np.zeros((40, 10), np.float32), copies=True, decoded=Decoding(200, 80))
    assert Decoding(200, 80) == SelectedColumns(chunks, 10, 1, np.array([2, 5])).decoding(0, 3)
    held = Held(np.zeros((40, 10), np.float32))
    source = SelectedColumns(held, 10, 1, np.array([2, 5]))
    source.prefetch(1, 4)
    assert [(5, 16)] == held.prefetched
    assert source.decoding(0, 3) is None


class TestSelectedColumns(SourceTests):
    """Some columns, and windows of several elements, of a tensor that is mapped or stored in chunks."""

    kinds = ("mapped", "windows", "unaligned", "chunks")
    comparable = False  # the columns are an array

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        rows, width = shape
        length = 2 if kind == "windows" else 1
        random = np.random.default_rng(0)
        chosen = np.sort(random.permutation(width)[: width // length])
        values = random.standard_normal((rows, width * length), np.float32)
        if kind == "chunks":
            stored = store_zarr(folder / "w", values, (max(2, rows // 2), values.shape[1]))
        else:
            stored = store_mapped(folder / "w", values, 7 if kind == "unaligned" else 8)
        source = SelectedColumns(stored, width * length, length, chosen)
        expected = values.reshape(rows, width, length)[:, chosen].tobytes()
        yield Stored(source, expected, lambda: touch(folder))
