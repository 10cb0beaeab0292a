"""Gathered rows are those of numpy's indexing, in any range, and only one window is resident at a time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.io.dtypes import DTYPES, to_numpy
from dovetail.io.source import Decoding, Source
from dovetail.io.sources import gathered as module
from dovetail.io.sources.gathered import WINDOW_BYTES, GatheredSource, gathered_dtype
from dovetail.io.sources.row_map import AVERAGE, MEAN, ZERO, RowMap, row_map
from tests.engine.kernels.cases import examples
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.held import HeldSource
from tests.io.stored import store_mapped, store_transposed, store_zarr, touch

F32, BF16, F16 = DTYPES["F32"], DTYPES["BF16"], DTYPES["F16"]


@dataclass(frozen=True, eq=False)
class Held(HeldSource):
    """A source with elements in an array, which records the calls."""

    resident: list[tuple[int, int]] = field(default_factory=list)
    prefetched: list[tuple[int, int]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    """How many ranges were resident after each call."""

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        assert (start, stop) in self.resident
        return super().read(start, stop)

    def prefetch(self, start: int, stop: int) -> None:
        assert 0 <= start < stop <= self.length
        self.prefetched.append((start, stop))

    def populate(self, start: int, stop: int) -> bool:
        self.resident.append((start, stop))
        self.asked.append((start, stop))
        self.held.append(len(self.resident))
        return True

    def release(self, start: int, stop: int) -> None:
        self.resident.remove((start, stop))


def expected_rows(donors: list[NDArray[Any]], found: RowMap, kinds: list[int], rows: list[int]) -> NDArray[np.float32]:
    """Gather rows one by one, in float32."""
    width = donors[0].shape[1]
    out = np.zeros((len(kinds), width), np.float32)
    for index, (kind, row) in enumerate(zip(kinds, rows, strict=True)):
        if kind >= 0:
            out[index] = donors[kind][row].astype(np.float32)
        elif kind == AVERAGE:
            for donor, other in found.averages[row]:
                out[index] = out[index] + donors[donor][other].astype(np.float32)
            out[index] = out[index] / np.float32(len(found.averages[row]))
    for index, kind in enumerate(kinds):
        if kind == MEAN:
            mean = out[: found.mean_rows].astype(np.float64).sum(axis=0) / found.mean_rows
            out[index] = mean.astype(np.float32)
    return out


@st.composite
def gathers(draw: st.DrawFn) -> tuple[list[NDArray[Any]], RowMap, list[int], list[int]]:
    """Draw donors of up to three dtypes, and rows of every kind."""
    width = draw(st.integers(1, 5))
    kinds = draw(st.lists(st.sampled_from([F32, BF16, F16]), min_size=1, max_size=3))
    if draw(st.booleans()):
        kinds = [kinds[0]] * len(kinds)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    donors = [random.standard_normal((draw(st.integers(1, 12)), width)).astype(to_numpy(dtype)) for dtype in kinds]
    pairs = st.integers(0, len(donors) - 1).flatmap(
        lambda donor: st.tuples(st.just(donor), st.integers(0, len(donors[donor]) - 1))
    )
    averages = draw(st.lists(st.lists(pairs, min_size=1, max_size=3).map(tuple), max_size=3))
    choices = [pairs, st.just((ZERO, 0))]
    if averages:
        choices.append(st.tuples(st.just(AVERAGE), st.integers(0, len(averages) - 1)))
    chosen = draw(st.lists(st.one_of(choices), min_size=1, max_size=30))
    for _ in range(draw(st.integers(0, 2))):  # stretches of consecutive rows, as real vocabularies have
        donor = draw(st.integers(0, len(donors) - 1))
        chosen += [(donor, row) for row in range(len(donors[donor]))]
    padding = draw(st.integers(0, 3))
    mean_rows = len(chosen)
    chosen += [(MEAN, 0)] * padding
    rows = [row for _, row in chosen]
    found = row_map(np.array([donor for donor, _ in chosen], np.int16), np.array(rows, np.int32), averages, mean_rows)
    return donors, found, [donor for donor, _ in chosen], rows


def gathered(donors: list[NDArray[Any]], found: RowMap) -> GatheredSource:
    """Gather from arrays."""
    names = {"float32": F32, "bfloat16": BF16, "float16": F16}
    dtypes = tuple(names[str(donor.dtype)] for donor in donors)
    sources = tuple(Held(donor, copies=bool(place % 2)) for place, donor in enumerate(donors))
    return GatheredSource(sources, dtypes, donors[0].shape[1], found, gathered_dtype(found, dtypes))


@given(gathers(), st.data())
@settings(max_examples=examples(100))
def test_any_range_is_what_indexing_gives(
    case: tuple[list[NDArray[Any]], RowMap, list[int], list[int]], data: st.DataObject
) -> None:
    """Any division into ranges gives the bits of the rows gathered one by one, and leaves nothing resident."""
    donors, found, kinds, rows = case
    source = gathered(donors, found)
    expected = expected_rows(donors, found, kinds, rows).astype(to_numpy(source.dtype)).reshape(-1)
    assert expected.size == source.length
    cuts = sorted({0, source.length, *data.draw(st.lists(st.integers(0, source.length), max_size=5))})
    for start, stop in itertools.pairwise(cuts):
        read = source.read(start, stop)
        assert expected[start:stop].tobytes() == read.tobytes()
        assert not read.flags.writeable
        source.prefetch(start, stop)
    assert b"" == source.read(1, 1).tobytes()
    assert not any(donor.resident for donor in source.donors)  # type: ignore[attr-defined]


def test_runs_are_found() -> None:
    """Consecutive rows are one run; zeros and padding are one run wherever they stand."""
    donors = np.array([0, 0, 0, 1, 1, ZERO, ZERO, 0, MEAN, MEAN], np.int16)
    found = row_map(donors, np.array([4, 5, 6, 7, 9, 0, 0, 7, 0, 0], np.int32), mean_rows=8)
    assert [0, 3, 4, 5, 7, 8] == found.starts.tolist()
    assert [0, 1, 1, ZERO, 0, MEAN] == found.donors.tolist()
    assert (0, 1) == found.used
    assert found.made


def test_first_rows_of_one_donor_need_no_gathering() -> None:
    """A map that only cuts a tensor short is recognised."""
    head = row_map(np.zeros(5, np.int16), np.arange(5, dtype=np.int32))
    assert head.is_head_of(0)
    assert not head.is_head_of(1)
    assert not row_map(np.zeros(5, np.int16), np.arange(1, 6, dtype=np.int32)).is_head_of(0)


def test_dtype_is_the_donors_own_where_rows_are_only_moved() -> None:
    """Moved rows keep their bits; averaged rows, and rows of several dtypes, are read in float32."""
    moved = row_map(np.array([0, 1, ZERO], np.int16), np.array([2, 1, 0], np.int32))
    assert BF16 is gathered_dtype(moved, (BF16, BF16))
    assert F32 is gathered_dtype(moved, (BF16, F16))
    assert F32 is gathered_dtype(row_map(np.array([0, MEAN], np.int16), np.zeros(2, np.int32), (), 1), (BF16,))
    only_zeros = row_map(np.array([ZERO], np.int16), np.zeros(1, np.int32))
    assert BF16 is gathered_dtype(only_zeros, (BF16,))


def test_scattered_rows_are_read_one_window_at_a_time() -> None:
    """Rows that are far apart are released one after another, and long runs are read in pieces."""
    rows, width = 64, 2**18
    big = Held(np.zeros((rows, width), ml_dtypes.bfloat16))
    order = np.arange(rows, dtype=np.int32)[::-1].copy()
    source = GatheredSource((big,), (BF16,), width, row_map(np.zeros(rows, np.int16), order), BF16)
    source.read(0, source.length)
    assert 1 == max(big.held)
    source.release(0, source.length)
    straight = GatheredSource((big,), (BF16,), width, row_map(np.zeros(rows - 1, np.int16), order[::-1][1:]), BF16)
    straight.read(0, straight.length)
    assert 1 == max(big.held)


def test_what_is_decoded_is_read_in_stretches() -> None:
    """Rows of a donor that copies are read in the donor's order, with the gaps, so that each chunk is read once."""
    rows, width = 96, 2**16
    held = Held(np.zeros((rows, width), np.float32), copies=True)
    order = np.random.default_rng(0).permutation(rows).astype(np.int32)
    order = order[order % 3 > 0]
    source = GatheredSource((held,), (F32,), width, row_map(np.zeros(len(order), np.int16), order), F32)
    source.read(0, source.length)
    assert sorted(held.asked) == held.asked
    assert 6 == len(held.asked)
    assert all((stop - start) * 4 <= WINDOW_BYTES for start, stop in held.asked)


def test_near_ranges_are_prefetched_as_one() -> None:
    """Rows that are near each other are prefetched together, whatever their order."""
    held = Held(np.zeros((100, 4), np.float32))
    order = np.array([5, 3, 4, 90, 6], np.int32)
    source = GatheredSource((held,), (F32,), 4, row_map(np.zeros(5, np.int16), order), F32)
    source.prefetch(0, source.length)
    assert [(12, 364)] == held.prefetched


class TestGatheredSource(SourceTests):
    """Rows of two tensors in any order, some of them averages, the last ones the mean of the others."""

    kinds = ("moved", "averaged", "chunks", "unaligned", "mixed")
    comparable = False  # row maps hold arrays

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        random = np.random.default_rng(0)
        rows = shape[0]
        donors = [random.standard_normal((rows + more, shape[1]), np.float32) for more in (0, 9)]
        if kind == "mixed":
            donors[1] = donors[1].astype(ml_dtypes.bfloat16)
        kinds = random.integers(0, 2, rows).astype(np.int16)
        places = random.permutation(rows).astype(np.int32)
        averages: list[tuple[tuple[int, int], ...]] = []
        if kind not in ("moved", "unaligned"):
            averages = [((0, 3), (1, 5)), ((1, 2), (0, 0), (1, 1))]
            kinds[4:6], places[4:6] = AVERAGE, (0, 1)
            kinds[6], kinds[-2:] = ZERO, MEAN
        found = row_map(kinds, places, averages, rows - 2)
        stored = tuple(self._store(folder, place, kind, donor) for place, donor in enumerate(donors))
        dtypes = (F32, BF16 if kind == "mixed" else F32)
        source = GatheredSource(stored, dtypes, shape[1], found, F32)
        expected = expected_rows(donors, found, kinds.tolist(), places.tolist())
        yield Stored(source, expected.tobytes(), lambda: touch(folder))

    def _store(self, folder: Path, place: int, kind: str, donor: NDArray[Any]) -> Source:
        if kind == "chunks" and place:
            return store_zarr(folder / str(place), donor, (max(2, len(donor) // 2), donor.shape[1]))
        if kind == "mixed" and place:
            return store_transposed(folder / str(place), donor)
        return store_mapped(folder / str(place), donor, 7 if kind == "unaligned" else 8)


def order_of(*rows: int) -> RowMap:
    """Make a map of rows of the first donor."""
    return row_map(np.zeros(len(rows), np.int16), np.array(rows, np.int32))


def test_scratch_is_a_window_and_what_the_donor_takes() -> None:
    """The scratch memory is the donor's, and a window of the donor, its copy, and averaged rows."""
    donor = HeldSource(np.zeros((40, 10), np.float32), scratch_bytes=107_000_000)
    copying = HeldSource(np.zeros((40, 10), np.float32), copies=True, scratch_bytes=107_000_000)
    runs = module._RUN_BYTES * 3
    assert 107_000_000 + 1600 + runs == GatheredSource((donor,), (F32,), 10, order_of(5, 3, 1), F32).scratch_bytes
    assert 107_000_000 + 3200 + runs == GatheredSource((copying,), (F32,), 10, order_of(5, 3, 1), F32).scratch_bytes
    with_mean = row_map(np.array([0, 0, MEAN], np.int16), np.array([5, 3, 0], np.int32), (), 2)
    made = GatheredSource((donor,), (F32,), 10, with_mean, F32).scratch_bytes
    assert 107_000_000 + 1600 + 2**20 + 240 + 2 * runs == made
    unused = GatheredSource((HeldSource(np.zeros((40, 10), np.float32)), donor), (F32, F32), 10, order_of(5, 3, 1), F32)
    assert 1600 + runs == unused.scratch_bytes


def test_decoding_is_that_of_the_donors() -> None:
    """The decodings of a range's windows are added up; a range without stored rows decodes nothing."""
    chunks = HeldSource(np.zeros((40, 10), np.float32), copies=True, decoded=Decoding(200, 80))
    source = GatheredSource((chunks,), (F32,), 10, order_of(5, 3, 1), F32)
    assert Decoding(400, 160) == source.decoding(0, 30)
    plain = GatheredSource((HeldSource(np.zeros((40, 10), np.float32)),), (F32,), 10, order_of(5, 3, 1), F32)
    assert plain.decoding(0, 30) is None


def test_long_lists_of_runs_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs are sorted at a time, the rows are the same."""
    values = np.random.default_rng(0).standard_normal((300, 2), np.float32)
    order = np.random.default_rng(1).permutation(300)
    expected = values[order].reshape(-1)[3:590].tobytes()
    for most in (1, 7, 299, 10_000):
        monkeypatch.setattr(module, "_MOST_RUNS", most)
        source = GatheredSource((HeldSource(values),), (F32,), 2, order_of(*order.tolist()), F32)
        assert expected == source.read(3, 590).tobytes()
