"""What the tasks of one run share in the process where they run: patience with servers, and memory of two kinds.

Nothing of it outlives the run or touches another one in the same process. It travels with every task, so that tasks
in other processes keep to the same limits, and learn there too when the run is given up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dovetail.engine.planning.work import Work
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.task import TaskRecord, execute
from dovetail.io.remote.read_ahead import Pool, reading_through
from dovetail.io.remote.retrying import Patience, patient
from dovetail.io.zarr.chunk_pool import ChunkPool, sharing_chunks


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """What the tasks of one run share. Pickled, it becomes what they share in the process that unpickles it."""

    patience: Patience
    """Whether requests that fail are made again."""
    ahead: Pool
    """Remote bytes in memory; another process has an empty pool, which fetches nothing ahead."""
    chunks: ChunkPool
    """Decoded chunks of Zarr inputs."""
    workers: int
    """Tasks that run at once; where each runs in another process, each has such a part of the limit of `chunks`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the patience and the limits, and none of what is held in memory."""
        return _elsewhere, (self.patience, self.chunks.limit_bytes // self.workers)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread work for the run, until the end of the block."""
        with patient(self.patience), reading_through(self.ahead), sharing_chunks(self.chunks):
            yield


@contextlib.contextmanager
def open_session(budget: Budget, read_ahead_bytes: int = 0) -> Iterator[Session]:
    """Make what the tasks of a run share, until the end of the block.

    Parameters
    ----------
    budget
        The memory of the run.
    read_ahead_bytes
        Most bytes that are fetched from the network ahead of need; 0 where tasks may run in other processes, which
        would not find them here.

    """
    session = Session(Patience(), Pool(read_ahead_bytes), ChunkPool(budget.shared_bytes), budget.workers)
    try:
        yield session
    finally:
        session.ahead.close()
        session.patience.close()


def execute_in(session: Session, work: Work) -> TaskRecord:
    """Run one pass of one task as a part of its run; raises as `dovetail.engine.run.task.execute` does."""
    with session.entered():
        return execute(work)


def _elsewhere(patience: Patience, chunks_bytes: int) -> Session:
    return Session(patience, Pool(0), _chunks_of(patience.flag, chunks_bytes), 1)


@lru_cache(maxsize=1)
def _chunks_of(run: Path, limit_bytes: int) -> ChunkPool:
    """Give the chunks that the tasks of one run share in this process; those of the run before are let go."""
    return ChunkPool(limit_bytes)
