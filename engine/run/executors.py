"""Where tasks run: the executor that the caller gave, or a pool of threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor

from dovetail.io.files.threads import Threads


@contextlib.contextmanager
def open_executor(given: Executor | None, workers: int) -> Iterator[Executor]:
    """Give the caller's executor, or else a pool of threads, which is closed after the block.

    Threads are enough, because kernels run without the interpreter's lock.
    """
    if given is not None:
        yield given
        return
    with Threads(workers, thread_name_prefix="dovetail-work") as pool:
        yield pool
