"""The tests that every source must pass. A reader's tests subclass `SourceTests` and make a source of each kind."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import random
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.io.errors import CheckpointError
from dovetail.io.source import Source
from dovetail.io.zarr.chunk_pool import ChunkPool, sharing_chunks

SMALL = (23, 12)
"""Shape of a tensor that is read range by range."""

LARGE = (1536, 520)
"""Shape of a tensor that is large against everything that a reader keeps besides."""

SLACK_BYTES = 2**17
"""Python objects that a read may make beside what it says; a hundredth of what LARGE has."""

OPERATIONS = ("read", "prefetch", "populate", "release")


@dataclass(frozen=True)
class Stored:
    """A source, and the values that it must read."""

    source: Source
    expected: bytes
    """The bytes of all elements, from somewhere else."""
    change: Callable[[], object]
    """Changes what is stored."""


def read_bytes(source: Source, start: int, stop: int) -> bytes:
    """Read the bytes of a range; other processes run this too."""
    source.populate(start, stop)
    return source.read(start, stop).tobytes()


def some_ranges(length: int) -> list[tuple[int, int]]:
    """Give ranges at the ends and in the middle, the empty ones among them."""
    places = sorted({0, 1, length // 3, length // 2, length - 1, length})
    return list(itertools.combinations_with_replacement(places, 2))


class SourceTests:
    """The contract of `dovetail.io.source.Source`."""

    kinds: ClassVar[tuple[str, ...]] = ("",)
    """What there is of the source, given to `make` one by one."""
    comparable: ClassVar[bool] = True
    """Whether two sources of the same elements are equal."""

    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> contextlib.AbstractContextManager[Stored]:
        """Store a matrix in a folder, or compute a tensor from one, until the end of the block."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test that takes a source with every kind."""
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", self.kinds)

    @pytest.fixture(scope="class")
    @classmethod
    def made(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Callable[[str, tuple[int, int]], Stored]]:
        """Make each source only once."""
        known: dict[tuple[str, tuple[int, int]], Stored] = {}
        with contextlib.ExitStack() as stack:

            def make(kind: str, shape: tuple[int, int]) -> Stored:
                if (kind, shape) not in known:
                    known[kind, shape] = stack.enter_context(
                        request.cls().make(tmp_path_factory.mktemp("made"), kind, shape)
                    )
                return known[kind, shape]

            yield make

    @pytest.fixture
    def stored(self, kind: str, made: Callable[[str, tuple[int, int]], Stored]) -> Stored:
        """Give a small source."""
        return made(kind, SMALL)

    def test_size(self, stored: Stored) -> None:
        """The length and the element size are those of the bytes that are read."""
        source = stored.source
        assert len(stored.expected) == source.length * source.itemsize
        assert stored.expected == read_bytes(source, 0, source.length)

    def test_arrays(self, stored: Stored) -> None:
        """Reads give flat, read-only arrays of the right bytes, aligned to the element size, even if empty."""
        source, itemsize = stored.source, stored.source.itemsize
        for start, stop in some_ranges(source.length):
            source.populate(start, stop)
            found = source.read(start, stop)
            assert (np.dtype(np.uint8), 1) == (found.dtype, found.ndim)
            assert not found.flags.writeable
            assert 0 == found.__array_interface__["data"][0] % itemsize
            assert stored.expected[start * itemsize : stop * itemsize] == found.tobytes()
            source.release(start, stop)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_hints_change_nothing(self, stored: Stored, data: st.DataObject) -> None:
        """Whatever is prefetched, populated and released, every range has the right bytes, and keeps them."""
        source, itemsize = stored.source, stored.source.itemsize
        place = st.integers(0, source.length)
        calls = data.draw(st.lists(st.tuples(st.sampled_from(OPERATIONS), place, place), min_size=1, max_size=8))
        kept = []
        for operation, one, other in calls:
            start, stop = min(one, other), max(one, other)
            found = getattr(source, operation)(start, stop)
            if operation == "read":
                kept.append((start, stop, found))
        for start, stop, found in kept:
            assert stored.expected[start * itemsize : stop * itemsize] == found.tobytes()
            source.release(start, stop)

    def test_outside(self, stored: Stored) -> None:
        """A range that is not within the tensor is refused, because it would give a neighbour's bytes."""
        source, length = stored.source, stored.source.length
        for start, stop in ((-1, 1), (2, 1), (0, length + 1), (length + 1, length + 1), (-2, -1)):
            with pytest.raises(IndexError, match=f"elements {start} to {stop} of a tensor of {length}"):
                source.read(start, stop)

    def test_pickle(self, kind: str, stored: Stored, made: Callable[[str, tuple[int, int]], Stored]) -> None:
        """A source is pickled as a description, without data; the copy is equal, and reads the same."""
        large = made(kind, LARGE)
        assert len(pickle.dumps(large.source)) < len(large.expected) // 8
        source = stored.source
        copy: Source = pickle.loads(pickle.dumps(source))
        assert self.comparable == (source == copy)
        described = (source.length, source.itemsize, source.copies, source.scratch_bytes)
        assert described == (copy.length, copy.itemsize, copy.copies, copy.scratch_bytes)
        assert stored.expected == read_bytes(copy, 0, copy.length)

    def test_other_process(self, stored: Stored, other_process: Executor) -> None:
        """Another process reads the same bytes."""
        start, stop = stored.source.length // 3, stored.source.length - 1
        found = other_process.submit(read_bytes, stored.source, start, stop).result()
        assert stored.expected[start * stored.source.itemsize : stop * stored.source.itemsize] == found

    def test_threads(self, stored: Stored) -> None:
        """Threads that read, populate and release at once see the right bytes."""
        source, itemsize = stored.source, stored.source.itemsize

        def work(seed: int) -> None:
            places = random.Random(seed)
            for _ in range(10):
                start, stop = sorted((places.randint(0, source.length), places.randint(0, source.length)))
                source.prefetch(start, stop)
                assert stored.expected[start * itemsize : stop * itemsize] == read_bytes(source, start, stop)
                source.release(start, stop)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))

    def test_scratch(self, kind: str, made: Callable[[str, tuple[int, int]], Stored]) -> None:
        """A read takes no more than the array that it returns, a copy of it if it copies, and its scratch memory."""
        source = made(kind, LARGE).source
        with sharing_chunks(ChunkPool(0)):  # what is kept for others is not counted here
            source.read(0, source.length)  # what is compiled or opened once is there afterwards
            for stop in (1, source.length // 5, source.length):
                size_bytes = stop * source.itemsize * (2 if source.copies else 1)
                assert traced_peak_bytes(source, stop) <= size_bytes + source.scratch_bytes + SLACK_BYTES

    def test_mapped_bytes(self, stored: Stored) -> None:
        """If a range is said to be bytes of a mapped file, it is, and the file has the expected size and time."""
        for start, stop in some_ranges(stored.source.length):
            found = stored.source.mapped_bytes(start, stop)
            if found is not None:
                status = os.stat(found.path)
                assert (status.st_size, status.st_mtime_ns) == (found.file_size_bytes, found.file_mtime_ns)
                content = Path(found.path).read_bytes()[found.begin : found.end]
                assert content == stored.source.read(start, stop).tobytes()

    def test_decoding(self, stored: Stored) -> None:
        """Either no range decodes anything, or every range says what it decodes, and the whole tensor decodes some."""
        source = stored.source
        chunked = source.decoding(0, 0) is not None
        for start, stop in some_ranges(source.length):
            found = source.decoding(start, stop)
            assert chunked == (found is not None)
            if found is not None:
                assert min(found) >= 0
                assert found.elements > 0 or (start, stop) != (0, source.length)

    def test_stored_objects(self, stored: Stored) -> None:
        """If a tensor has stored objects, they have names, and the padding that no read decodes is sound."""
        found = stored.source.stored_objects()
        if found is not None:
            keys = list(found.object_keys())
            assert keys
            assert len(keys) == len(set(keys))
            found.check_padding()

    def test_changes(self, kind: str, tmp_path: Path, other_process: Executor) -> None:
        """A process that first reads after the stored bytes have changed gets an error and no other numbers."""
        with self.make(tmp_path, kind, SMALL) as stored:
            stored.change()
            found = other_process.submit(read_bytes, stored.source, 0, stored.source.length).exception()
        assert isinstance(found, CheckpointError), found


def traced_peak_bytes(source: Source, stop: int) -> int:
    """Measure Python's peak memory while the first elements are read; pages of files do not count."""
    source.populate(0, stop)
    tracemalloc.start()
    try:
        array = source.read(0, stop)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        del array
    finally:
        tracemalloc.stop()
    source.release(0, stop)
    return peak_bytes
