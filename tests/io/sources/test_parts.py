"""Tensors that are parts of another, or are put together from several."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dovetail.io.dtypes import DTYPES
from dovetail.io.source import Decoding
from dovetail.io.sources.parts import ElementRun, joined
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.held import HeldSource
from tests.io.sources.test_rows import STORED, Recorded, recorded, store
from tests.io.stored import random_bytes, touch

BF16, F16, F32 = DTYPES["BF16"], DTYPES["F16"], DTYPES["F32"]


class TestElementRun(SourceTests):
    """A matrix of a stack, which neither begins nor ends with the stack."""

    kinds = STORED

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        rows, columns = shape
        values = random_bytes((rows + 9, columns), "<u2")
        source = ElementRun(store(folder, "stored", kind, values), 4 * columns, rows * columns)
        yield Stored(source, values[4 : 4 + rows].tobytes(), lambda: touch(folder))


class TestJoinedSource(SourceTests):
    """A stack of three matrices, one of which is cut from another stack; or with a part of another dtype."""

    kinds = (*STORED, "decoded")

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        rows, columns = shape
        cuts = (0, rows // 3, rows // 2, rows)
        values = [random_bytes((high - low, columns), "<u2", seed) for seed, (low, high) in enumerate(_pairs(cuts))]
        more = np.concatenate((random_bytes((2, columns), "<u2", 9), values[1]))
        own = "aligned" if kind == "decoded" else kind
        parts = [
            store(folder, "first", own, values[0]),
            ElementRun(store(folder, "second", own, more), 2 * columns, values[1].size),
            store(folder, "third", own, values[2]),
        ]
        dtypes, expected = [BF16] * 3, b"".join(each.tobytes() for each in values)
        if kind == "decoded":
            dtypes[1] = F16
            floats = [(each.astype(np.uint32) << 16).view(np.float32) for each in values]
            floats[1] = values[1].view(np.float16).astype(np.float32)
            expected = b"".join(each.tobytes() for each in floats)
        yield Stored(joined(list(zip(parts, dtypes, strict=True))), expected, lambda: touch(folder))


def _pairs(cuts: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(cuts))


@given(st.data(), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_joined(data: st.DataObject, lengths: list[int]) -> None:
    """Elements are the parts' in their order, and every hint goes to the parts that have them."""
    parts = [recorded(length, 1000 * i) for i, length in enumerate(lengths)]
    source = joined([(part, BF16) for part in parts])
    expected = np.concatenate([part.data for part in parts])
    start = data.draw(st.integers(0, source.length))
    stop = data.draw(st.integers(start, source.length))
    assert (sum(lengths), 2, BF16) == (source.length, source.itemsize, source.dtype)
    assert expected[2 * start : 2 * stop].tobytes() == source.read(start, stop).tobytes()
    assert source.populate(start, stop)
    source.prefetch(start, stop)
    source.release(start, stop)
    for name in ("prefetch", "populate", "release"):
        found = [
            offset + i
            for part, offset in zip(parts, source.starts, strict=False)
            for call in part.calls
            if call[0] == name
            for i in range(*call[1:])
        ]
        assert list(range(start, stop)) == found


@given(st.data(), st.integers(1, 40), st.integers(0, 20), st.integers(0, 20))
def test_run(data: st.DataObject, length: int, before: int, after: int) -> None:
    """Elements are the source's from the first on, and every hint is of the source's own places."""
    whole: Recorded = recorded(before + length + after)
    source = ElementRun(whole, before, length)
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.integers(start, length))
    first, last = before + start, before + stop
    assert whole.data[2 * first : 2 * last].tobytes() == source.read(start, stop).tobytes()
    assert source.populate(start, stop)
    source.prefetch(start, stop)
    source.release(start, stop)
    assert [("populate", first, last), ("prefetch", first, last), ("release", first, last)] == whole.calls


def test_scratch_and_decoding_are_handed_on() -> None:
    """A wrapper names the memory that reading takes, and what is decoded, wherever a range lies."""
    plain = HeldSource(np.zeros(20, np.uint16))
    large = HeldSource(np.zeros(10, np.uint16), scratch_bytes=107_000_000, decoded=Decoding(30, 40))
    assert 107_000_000 == ElementRun(large, 2, 5).scratch_bytes
    assert 107_000_000 <= joined([(plain, BF16), (large, BF16)]).scratch_bytes
    assert Decoding(30, 40) == ElementRun(large, 2, 5).decoding(0, 3)
    assert joined([(plain, BF16), (large, BF16)]).decoding(0, 5) is not None
    assert joined([(plain, BF16), (plain, BF16)]).decoding(0, 40) is None


def test_one_dtype_stays() -> None:
    """Parts of one dtype are joined in it; of several, as float32, which holds them all."""
    part = HeldSource(np.zeros(4, np.uint16))
    assert F16 == joined([(part, F16), (part, F16)]).dtype
    assert F32 == joined([(part, F16), (part, BF16)]).dtype
