"""Reading ahead stays within its limit, makes few requests, and gives the right bytes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.io.errors import RemoteError
from dovetail.io.remote import read_ahead as module
from dovetail.io.remote.file import RemoteFile, Write
from dovetail.io.remote.read_ahead import Pool, pool, reading_through
from dovetail.io.remote.source import RemoteSource
from tests.pace import HANGS_S

DATA = random.Random(0).randbytes(1 << 20)
FILE = RemoteFile("test://file", len(DATA), '"x"')


class Transport:
    """Sends parts of `DATA` in pieces, and records the requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.error: Exception | None = None

    def fetch(self, file: RemoteFile, begin: int, end: int, write: Write) -> None:
        self.asked.append((begin, end))
        assert self.hold.wait(HANGS_S)
        if self.error is not None:
            raise self.error
        for position in range(begin, end, 1000):
            write(position, DATA[position : min(end, position + 1000)])


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> Transport:
    """Replace the network by a transport."""
    made = Transport()
    monkeypatch.setattr(module, "transport_of", lambda address: made)
    return made


@pytest.fixture
def made() -> Iterator[Callable[[int], Pool]]:
    """Make pools that are closed after the test."""
    pools: list[Pool] = []

    def make(limit_bytes: int) -> Pool:
        pools.append(Pool(limit_bytes))
        return pools[-1]

    yield make
    for each in pools:
        each.close()


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_limit_holds(transport: Transport, made: Callable[[int], Pool]) -> None:
    """A range that does not fit is not fetched ahead; taking or dropping another range makes room."""
    ahead = made(250_000)
    for index in range(5):
        ahead.start(FILE, index * 200_000, index * 200_000 + 100_000)
    assert (200_000, 200_000) == (ahead.ahead_bytes, ahead.peak_bytes)
    wait_for(lambda: len(transport.asked) == 2)
    assert DATA[:100_000] == ahead.take(FILE, 0, 100_000).tobytes()
    assert 100_000 == ahead.ahead_bytes
    ahead.start(FILE, 800_000, 900_000)
    ahead.drop(FILE, 200_000, 300_000)
    assert 100_000 == ahead.ahead_bytes
    ahead.drop(FILE, 200_000, 300_000)
    assert (100_000, 200_000) == (ahead.ahead_bytes, ahead.peak_bytes)


def test_neighbours_come_together(transport: Transport, made: Callable[[int], Pool]) -> None:
    """Queued ranges that are close together are fetched by one request, each with its own bytes."""
    ahead, ranges = made(10**6), [(index * 1100, index * 1100 + 1000) for index in range(100)]
    transport.hold.clear()
    for _ in range(module.THREADS):  # keep every thread busy
        ahead.start(FILE, 900_000 + 20_000 * len(transport.asked), 900_010 + 20_000 * len(transport.asked))
        wait_for(lambda: len(transport.asked) == len(ahead._threads))
    for begin, end in reversed(ranges):
        ahead.start(FILE, begin, end)
    transport.hold.set()
    for begin, end in ranges:
        assert DATA[begin:end] == ahead.take(FILE, begin, end).tobytes()
        ahead.drop(FILE, begin, end)
    assert len(transport.asked) <= module.THREADS + 5
    assert ahead.ahead_bytes <= 40


def test_an_error_is_told_and_tried_again(transport: Transport, made: Callable[[int], Pool]) -> None:
    """An error while fetching ahead is raised when the range is taken, and another take tries again."""
    ahead, transport.error = made(10**6), RemoteError("broken")
    ahead.start(FILE, 0, 1000)
    with pytest.raises(RemoteError, match="broken"):
        ahead.take(FILE, 0, 1000)
    transport.error = None
    assert DATA[:1000] == ahead.take(FILE, 0, 1000).tobytes()
    assert 0 == ahead.ahead_bytes


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["start", "take", "drop"]), st.integers(0, 30), st.integers(1, 5)), max_size=40),
    st.integers(0, 40_000),
)
def test_any_order_of_calls(calls: list[tuple[str, int, int]], limit_bytes: int) -> None:
    """In any order of calls, bytes are right, the count never exceeds the limit, and nothing is left at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "transport_of", lambda address: Transport())
        ahead = Pool(limit_bytes)
        for call, place, size in calls:
            begin, end = place * 3000, (place + size) * 3000
            if call == "take":
                assert DATA[begin:end] == ahead.take(FILE, begin, end).tobytes()
            else:
                getattr(ahead, call)(FILE, begin, end)
            assert 0 <= ahead.ahead_bytes <= ahead.peak_bytes <= limit_bytes
        ahead.close()
        assert 0 == ahead.ahead_bytes


def test_sources(transport: Transport, made: Callable[[int], Pool]) -> None:
    """A source reads what it populated, or fetches it; outside of `reading_through` nothing is fetched ahead."""
    source = RemoteSource(FILE, 16, 1000, 8)
    source.prefetch(0, 100)
    assert [] == transport.asked
    assert DATA[16:816] == source.read(0, 100).tobytes()
    ahead = made(1 << 20)
    with reading_through(ahead):
        source.prefetch(0, 100)
        wait_for(lambda: len(transport.asked) == 2)
        assert source.populate(0, 100)
        values = source.read(0, 100)
        assert DATA[16:816] == values.tobytes()
        assert not values.flags.writeable
        assert values is source.read(0, 100)
        source.release(0, 100)
        assert (2, ahead, 0) == (len(transport.asked), pool(), ahead.ahead_bytes)
        assert 0 == source.read(7, 7).size
        with pytest.raises(IndexError):
            source.read(0, 1001)
    assert pool() is not ahead
