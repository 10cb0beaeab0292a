"""The pool of decoded chunks: bounded, shared, decoding a chunk once however many threads want it."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.io.zarr import chunk_pool
from dovetail.io.zarr.chunk_pool import ChunkPool


def chunk(size: int) -> NDArray[np.uint8]:
    return np.zeros(size, np.uint8)


def test_the_least_recently_used_go_first() -> None:
    """What is kept never exceeds the limit; a chunk that was used again stays longer; a larger one is not kept."""
    pool, decoded = ChunkPool(30), []

    def get(name: str, size: int = 10, *, keep: bool = True) -> None:
        pool.get(name, lambda: decoded.append(name) or chunk(size), keep=keep)  # type: ignore[func-returns-value]

    for name in ("a", "b", "c", "a", "d", "a", "b"):
        get(name)
        assert pool.kept_bytes <= 30
    assert ["a", "b", "c", "d", "b"] == decoded
    get("e", 31)
    get("f", keep=False)
    get("f", keep=False)
    assert ["e", "f", "f"] == decoded[5:]
    pool.limit_bytes = 10
    assert 10 == pool.kept_bytes
    pool.clear()
    assert 0 == pool.kept_bytes


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Count the threads that have begun to wait for what another decodes."""
    begun = threading.Semaphore(0)

    class Counted(Future[NDArray[np.uint8]]):
        def result(self, timeout: float | None = None) -> NDArray[np.uint8]:
            begun.release()
            return super().result(timeout)

    monkeypatch.setattr(chunk_pool, "Future", Counted)
    return begun


def test_threads_share_one_decoding(waiting: threading.Semaphore) -> None:
    """Eight threads that want a chunk at once get the same array, decoded once, though nothing is kept."""
    pool, calls = ChunkPool(0), []

    def decode() -> NDArray[np.uint8]:
        calls.append(1)
        for _ in range(7):  # until all others wait
            waiting.acquire()
        return chunk(5)

    with ThreadPoolExecutor(8) as executor:
        futures = [executor.submit(pool.get, "a", decode, keep=True) for _ in range(8)]
        found = [future.result() for future in futures]
    assert 1 == len(calls)
    assert {id(found[0])} == {id(item) for item in found}


def test_an_error_reaches_all_who_wait_and_is_forgotten(waiting: threading.Semaphore) -> None:
    """Whoever waits for a decoding that fails is told; the next one tries again."""
    pool = ChunkPool(100)

    def fail() -> NDArray[np.uint8]:
        waiting.acquire()  # until the other waits
        raise ValueError("broken")

    with ThreadPoolExecutor(2) as executor:
        first, second = (executor.submit(pool.get, "a", fail, keep=True) for _ in range(2))
        for future in (first, second):
            with pytest.raises(ValueError, match="broken"):
                future.result()
    assert 5 == pool.get("a", lambda: chunk(5), keep=True).size
