"""Where tasks run: the executor that the caller gave, or a pool of threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

from dovetail.io.remote.read_ahead import read_ahead


@contextlib.contextmanager
def open_executor(given: Executor | None, workers: int, read_ahead_bytes: int = 0) -> Iterator[Executor]:
    """Use the executor given, or a pool of threads: kernels run without the interpreter's lock.

    Only for tasks in this process is anything fetched ahead from the network: another's would not find it here.
    """
    if given is not None:
        yield given
        return
    with read_ahead(read_ahead_bytes), ThreadPoolExecutor(workers, thread_name_prefix="dovetail-work") as pool:
        yield pool
