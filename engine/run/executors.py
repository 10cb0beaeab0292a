"""Where tasks run: the executor that the caller gave, or a pool of threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import cast

from dovetail.engine.errors import RecipeError
from dovetail.engine.run.clusters.find import is_cluster
from dovetail.io.files.threads import Threads


@contextlib.contextmanager
def open_executor(given: object, workers: int) -> Iterator[Executor]:
    """Give the caller's executor, or else a pool of threads, which is closed after the block.

    Threads are enough, because kernels run without the interpreter's lock.

    Raises
    ------
    RecipeError
        A cluster was given, whose workers make parts of merges and run no other tasks.

    """
    if is_cluster(given):
        raise RecipeError(
            "a cluster is to do what is no merge",
            "merge() or make_vectors() with a cluster, and anything else without",
            "leave the executor out",
        )
    if given is not None:
        yield cast(Executor, given)
        return
    with Threads(workers, thread_name_prefix="dovetail-work") as pool:
        yield pool
