"""Bounded pools of decoded chunks that several reads share: one for each run, and one for reads outside of any run.

A chunk of which a read needs only a part is kept, because the next read, or that of another thread, is likely to need
the rest. A chunk that a read needs whole is not kept, because tasks read a tensor once, from its beginning to its end.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from dovetail.io.files.per_run import PerRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_POOL_BYTES: Final = 32 * 2**20
"""Most bytes that reads outside of any run keep decoded."""


class ChunkPool:
    """Decoded chunks by key; where they exceed a limit, those that were used longest ago are dropped.

    Parameters
    ----------
    limit_bytes
        Most bytes of chunks to keep; a chunk that is larger is never kept.

    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._kept_bytes = 0
        self._decoding: dict[Hashable, Future[NDArray[Any]]] = {}

    @property
    def limit_bytes(self) -> int:
        """Most bytes of chunks to keep."""
        return self._limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, value: int) -> None:
        with self._lock:
            self._limit_bytes = value
            self._shrink()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the chunks that the pool holds now."""
        return self._kept_bytes

    def get(self, key: Hashable, decode: Callable[[], NDArray[Any]], *, keep: bool) -> NDArray[Any]:
        """Give a chunk, decoding it if the pool does not hold it.

        If several threads want the same chunk at the same time, the first decodes it and the others wait. The first
        waits for no other thread, so that there can be no deadlock.

        Parameters
        ----------
        key
            Identifies the chunk.
        decode
            Decodes the chunk; an error that it raises is raised in every thread that waits for the chunk.
        keep
            Whether to keep the chunk for later reads.

        """
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return found
            others = self._decoding.get(key)
            if others is None:
                mine = self._decoding[key] = Future()
        if others is not None:
            return others.result()
        try:
            chunk = decode()
        except BaseException as error:
            with self._lock:
                del self._decoding[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._decoding[key]
            if keep and chunk.nbytes <= self._limit_bytes:
                self._kept[key] = chunk
                self._kept_bytes += chunk.nbytes
                self._shrink()
        mine.set_result(chunk)
        return chunk

    def clear(self) -> None:
        """Drop all chunks."""
        with self._lock:
            self._kept.clear()
            self._kept_bytes = 0

    def _shrink(self) -> None:
        while self._kept_bytes > self._limit_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes


_pools = PerRun("decoded chunks", lambda: ChunkPool(DEFAULT_POOL_BYTES))

pool = _pools.current
"""Gives the pool of the run that this thread works for, or the one of all reads outside of any run."""

sharing_chunks = _pools.using
"""Lets Zarr tensors that this thread reads keep their decoded chunks in a pool, until the end of the block."""
