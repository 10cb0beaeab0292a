"""What the tasks of one run share: patience with servers, bytes fetched ahead, and decoded chunks.

A session ends with its run, and does not affect other runs in the same process. It is sent along with every task, so
that tasks in other processes keep to the same limits, and stop waiting for servers when the run is given up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dovetail.engine.planning.work import SampleWork, Work
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.sampling import take_sample
from dovetail.engine.run.task import TaskRecord, execute
from dovetail.io.files.mapping import forget_files
from dovetail.io.remote.read_ahead import Pool, reading_through
from dovetail.io.remote.retrying import Patience, patient
from dovetail.io.zarr.chunk_pool import ChunkPool, sharing_chunks


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """What the tasks of one run share in one process; unpickled in another process, what its tasks share there."""

    patience: Patience
    """Decides whether failed requests are made again."""
    ahead: Pool
    """Remote bytes that were fetched ahead; in another process this pool is empty, and nothing is fetched ahead."""
    chunks: ChunkPool
    """Decoded chunks of Zarr inputs."""
    workers: int
    """Tasks that run at once; where tasks run in other processes, each gets this fraction of the limit of `chunks`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the patience and the limits, but none of the bytes in the pools."""
        return _elsewhere, (self.patience, self.chunks.limit_bytes // self.workers)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread use what the run shares, until the end of the block."""
        with patient(self.patience), reading_through(self.ahead), sharing_chunks(self.chunks):
            yield


@contextlib.contextmanager
def open_session(budget: Budget, read_ahead_bytes: int = 0) -> Iterator[Session]:
    """Make the session of a run, and close it after the block.

    Parameters
    ----------
    budget
        The memory of the run.
    read_ahead_bytes
        Most bytes that are fetched over the network before a task needs them; 0 where tasks may run in other processes,
        which could not use bytes in this one.

    """
    session = Session(Patience(), Pool(read_ahead_bytes), ChunkPool(budget.shared_bytes), budget.workers)
    try:
        yield session
    finally:
        session.ahead.close()
        session.patience.close()
        forget_files()


def execute_in(session: Session, work: Work | SampleWork) -> TaskRecord:
    """Run one pass of one task, or the sample of a tensor, within the session of its run.

    Raises as `dovetail.engine.run.task.execute` does.
    """
    with session.entered():
        return take_sample(work) if isinstance(work, SampleWork) else execute(work)


def _elsewhere(patience: Patience, chunks_bytes: int) -> Session:
    return Session(patience, Pool(0), _chunks_of(patience.flag, chunks_bytes), 1)


@lru_cache(maxsize=1)
def _chunks_of(run: Path, limit_bytes: int) -> ChunkPool:
    """Give the pool of decoded chunks of a run in this process; the cache of one entry drops that of the run before."""
    forget_files()  # those of the run before
    return ChunkPool(limit_bytes)
